"""Numbers from images and embeddings."""
