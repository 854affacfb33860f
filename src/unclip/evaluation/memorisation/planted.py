"""Copies of images that are planted, to find out what of them is noticed.

Shapes: N images, H × H pixels.
"""

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST: Final = 0.8
"""Of the side, that a crop keeps at least."""
_NOISE: Final = 0.1  # standard deviation, of a range of 2: 13 levels of 255


def _exact(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


def _flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    return images.flip(-1)


def _cropped(images: Tensor, generator: torch.Generator) -> Tensor:
    """A square of 80 to 100 % of the side, anywhere, at the size of the whole."""
    side = images.shape[-1]
    found = []
    for image in images:
        draw = torch.rand(3, generator=generator)
        kept = round(side * (SMALLEST + (1 - SMALLEST) * float(draw[0])))
        top, left = (int((side - kept + 1) * float(x)) for x in draw[1:])
        part = image[None, :, top : top + kept, left : left + kept]
        found.append(F.interpolate(part, (side, side), mode="bicubic", antialias=True))
    return torch.cat(found).clamp(-1, 1)


def _noised(images: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(images.shape, generator=generator)
    return (images + _NOISE * noise).clamp(-1, 1)


KINDS: Final[dict[str, Callable[[Tensor, torch.Generator], Tensor]]] = {
    "exact": _exact,
    "flipped": _flipped,
    "cropped": _cropped,
    "noised": _noised,
}


def plant(images: Tensor, kind: str, seed: int) -> Tensor:
    """Copies (N, 3, H, H) in [-1, 1] of images of the same shape, by one of `KINDS`."""
    return KINDS[kind](images, torch.Generator().manual_seed(seed % 2**63))
