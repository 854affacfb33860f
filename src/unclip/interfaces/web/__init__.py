"""The page of `unclip serve`: everything that the model can do, in a browser."""
