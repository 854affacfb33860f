"""Networks that make features of images, which metrics compare."""
