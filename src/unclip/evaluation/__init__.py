"""What a model is worth: metrics, the judge of the built-in world, studies."""
