"""Captioned images: folders and their tables, batches, degradations, and the built-in world."""
