"""Pixels: bytes as files hold them, and floats in [-1, 1] as networks see them; the one place.

A level is 0 … 255, as uint8 or as a float; x = level / 127.5 - 1. Data is bytes until it is used.
What CLIP takes instead, its own mean and deviation, is made of levels in
`networks/preprocessing.py`. Tensors have any shape and stay on their device.
"""

import torch
from torch import Tensor

_HALF = 127.5
_RANGE = 2.0  # between the darkest and the brightest value


def to_signed(levels: Tensor) -> Tensor:
    """Levels in [0, 255] → float32 in [-1, 1], to the last bit the same on every device."""
    # Divided by a tensor: by a number, GPUs multiply with its rounded inverse.
    half = torch.full((), _HALF, device=levels.device)
    return levels.to(torch.float32, copy=True).div_(half).sub_(1.0)


def to_levels(signed: Tensor) -> Tensor:
    """Floats in [-1, 1] → [0, 255], neither rounded nor clamped."""
    return (signed + 1.0) * _HALF


def to_uint8(signed: Tensor) -> Tensor:
    """Floats in [-1, 1], clamped and rounded → uint8; the exact inverse of `to_signed`."""
    return to_levels(signed.float()).round().clamp(0, 255).to(torch.uint8)


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (N,) in dB of images (N, C, H, W); infinite where they agree."""
    error = (images.double() - truth.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(_RANGE**2 / error)
