"""The judge: a detector of the built-in world, and its training."""
