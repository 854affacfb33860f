"""Networks and their configurations: no folder, no schedule, no guidance."""
