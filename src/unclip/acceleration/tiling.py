"""A fully convolutional network over a large image in bounded memory: overlapping tiles.

What is exact and what is not: a convolution's output depends on its receptive field alone, so the
middle of a tile equals the whole image's result where the tile reaches that much further. Group
normalisation is not local: its mean and variance are the image's, in a tile the tile's. Exact tiles
would have to keep every layer's features of the whole image until its statistics are known, which
is the memory to be saved. Tiles therefore normalise by themselves, as the network did in training,
where it saw crops of a quarter of the side and nothing larger (paper section 2.1). What remains is
a difference between neighbours that their overlap blends, at every sampling step: all tiles read
and write one noisy image, so that they agree on what is in it.

Shapes: N samples, C channels, H × W pixels.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from unclip.networks.unet_config import UNetConfig

BUDGET = 2**31  # bytes of activations, for one image in fp32


def activation_bytes(config: UNetConfig, height: int, width: int) -> int:
    """About how much memory one image takes inside a U-Net at inference, in fp32.

    What the way down keeps for the way up, and at the finest level the working set of a resnet
    block over both: its input, the input's two successors and a convolution's result.
    """
    widths = config.block_out_channels
    kept = sum(c / 4**level for level, c in enumerate(widths)) * (config.layers_per_block + 1)
    working = 4 * (widths[0] + widths[min(1, len(widths) - 1)])
    return int(4 * height * width * (kept + working))


def tile_side(config: UNetConfig, height: int, width: int, budget: int = BUDGET) -> int | None:
    """Side of the square tiles that fit `budget` bytes; None where the whole image does.

    It follows from network and image alone, so that an image is the same on every machine.
    """
    if activation_bytes(config, height, width) <= budget:
        return None
    unit = max(16, config.downsampling)  # of sides, so that a quarter of one divides by four
    side = math.isqrt(budget // activation_bytes(config, 1, 1))
    return max(2 * unit, side // unit * unit)


def tiled(network: Callable[[Tensor], Tensor], x: Tensor, side: int, multiple: int = 1) -> Tensor:
    """`network` applied to tiles of `x` (N, C, H, W) and blended: (N, C', H, W).

    Neighbours overlap by a quarter of `side` or more. Of the overlap, the outer quarter at each
    tile's edge is dropped, and a linear ramp in between blends: where the receptive field reaches
    no further than side / 16 and nothing is normalised over the image, the result is the untiled
    one. One tile of one image is computed at a time.

    Args:
        network: (1, C, h, w) → (1, C', h, w).
        side: of a tile, a multiple of 16; a shorter image is as long as its tiles.
        multiple: H, W, `side` and where tiles begin are multiples of it: the U-Net's downsampling.
    """
    assert side % 16 == 0, side
    assert side % multiple == 0, (side, multiple)
    assert side > multiple, (side, multiple)  # or tiles could not overlap
    height, width = x.shape[-2:]
    rows, columns = ((*_starts(length, side, multiple),) for length in (height, width))
    down, across = (_weights(min(side, length), side // 4) for length in (height, width))
    results = []
    for image in torch.split(x, 1):
        total: Tensor | None = None
        weight = torch.zeros(height, width, device=x.device)
        for top, left in itertools.product(rows, columns):
            place = (..., slice(top, top + side), slice(left, left + side))
            window = _open(down, top, height).outer(_open(across, left, width)).to(x.device)
            made = network(image[place])
            if total is None:
                total = made.new_zeros(1, made.shape[1], height, width)
            total[place] += made * window.to(made.dtype)
            weight[place] += window
        assert total is not None
        results.append(total / weight.to(total.dtype))
    return torch.cat(results)


def _starts(length: int, side: int, multiple: int) -> list[int]:
    """Where tiles begin along an axis: evenly, the last one ending at the edge. They overlap by a
    quarter or more, which counts in multiples, as where they begin does."""
    if length <= side:
        return [0]
    way = (length - side) // multiple
    steps = math.ceil(way / (side * 3 // 4 // multiple))
    return [round(way * k / steps) * multiple for k in range(steps + 1)]


def _weights(length: int, overlap: int) -> Tensor:
    """Of a tile's pixels along an axis: nothing at its edges, then a ramp, then one."""
    ramp = (torch.arange(overlap) - overlap // 4 + 0.5) / (overlap - 2 * (overlap // 4))
    weights = torch.ones(length)
    if length >= 2 * overlap:  # else it is the whole axis, whose edges count
        weights[:overlap] = ramp.clamp(0, 1)
        weights[-overlap:] = ramp.clamp(0, 1).flip(0)
    return weights


def _open(weights: Tensor, start: int, length: int) -> Tensor:
    """The weights of a tile at `start`: full where its edge is the image's own."""
    weights = weights.clone()
    half = len(weights) // 2
    if start == 0:
        weights[:half] = 1
    if start + len(weights) >= length:
        weights[half:] = 1
    return weights
