"""Whether a model gives out its training images: copies among what it makes, and its losses."""
