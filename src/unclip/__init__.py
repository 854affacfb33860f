"""unCLIP / DALL·E 2: a caption becomes a CLIP image embedding, the embedding becomes an image."""

__version__ = "0.1.0"
