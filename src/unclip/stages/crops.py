"""What upsamplers are trained on: crops of images, and blurred small ones (section 2.1).

Shapes: N images, C channels, H × W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.draws import integers


def blur(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian of `sigma` pixels on 3 × 3 taps, edges mirrored; (N, C, H, W) → the same."""
    if sigma == 0:
        return images
    side = torch.exp(torch.tensor(-0.5 / sigma**2)).item()
    taps = torch.tensor([side, 1.0, side], device=images.device) / (1 + 2 * side)
    kernel = torch.outer(taps, taps).expand(images.shape[1], 1, 3, 3)
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, kernel, groups=images.shape[1])


def random_crops(images: Tensor, side: int, generator: torch.Generator, step: int = 1) -> Tensor:
    """One square crop of `side` pixels of each image, its place drawn uniformly from a grid.

    Args:
        step: of the grid, pixels. A crop that starts where a small pixel does has its small pixels
            where whole images have theirs: what upsampling leaves of them is no matter of place.
    """
    height, width = images.shape[-2:]
    tops, lefts = (
        step * integers((extent - side) // step + 1, len(images), generator=generator)
        for extent in (height, width)
    )
    places = zip(images, tops.tolist(), lefts.tolist(), strict=True)
    return torch.stack([x[:, top : top + side, left : left + side] for x, top, left in places])
