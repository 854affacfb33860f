"""Captions to images, and images to images: requests, settings, the figure itself."""
