"""Whole experiments with a pipeline: edits, inpainting, upsampling."""
