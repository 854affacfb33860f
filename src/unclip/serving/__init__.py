"""One model for many: who is served when, and with whom together. Knows no HTTP."""
