"""Jobs of many prompts: what is asked for, what is there, and one worker's share of it."""
