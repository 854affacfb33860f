"""One loop for every stage: recipes, optimisers, checkpoints, processes."""
