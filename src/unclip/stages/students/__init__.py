"""Students: what learns to do in fewer evaluations what a trained stage does."""
