"""`unclip serve`: an images API over HTTP, as OpenAI's client speaks it, and this model's own."""
