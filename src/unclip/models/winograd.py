"""3 × 3 convolutions with fewer multiplications, where a CPU samples from wide layers.

Winograd's algorithm as Lavin & Gray (arXiv 1509.09308, section 4.1) have it, F(2 × 2, 3 × 3): four
outputs of a tile come from a patch of 4 × 4 inputs by 16 products for each pair of channels, where
the definition takes 36. In one dimension, with inputs d and weights w,

    y₀ = m₀ + m₁ + m₂        m₀ = (d₀ - d₂) w₀    m₁ = (d₁ + d₂) (w₀ + w₁ + w₂) / 2
    y₁ = m₁ - m₂ - m₃        m₃ = (d₁ - d₃) w₂    m₂ = (d₂ - d₁) (w₀ - w₁ + w₂) / 2

An image that was just enlarged by repeating its pixels has d₁ = d₂, so that m₂ is 0: 9 products.

The same numbers but for rounding. In fp32 they are as near to the truth as the direct sum. In bf16,
where that sum is rounded once, so are tiles and products, which makes four times its error; as much
comes from rounding a layer's inputs, and a network's output hardly shows it (docs/performance.md).

Shapes: N samples, C channels in, D out, H × W pixels, h × w tiles, r products a dimension (4 or 3).
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BYTES = 16 * 2**20  # of transformed inputs at a time: what caches hold, and no more memory
_CHANNELS = 256  # fewer are bound by memory, not by multiplications
_PIXELS = 1024  # of all samples: with fewer, transforming the weights takes longer than it saves
_PIXELS_KEPT = 512  # the same where they are transformed already

Kernels = dict[tuple[int, int], Tensor]  # transformed weights by their layer's id and by r
_kernels: ContextVar[Kernels | None] = ContextVar("kernels", default=None)


@contextmanager
def kept(kernels: Kernels | None) -> Iterator[None]:
    """A block in which transformed weights are looked up in `kernels`, and written there.

    They take 16/9 of the weights' memory. None: they are made anew at each call.
    """
    token = _kernels.set(kernels)
    try:
        yield
    finally:
        _kernels.reset(token)


class Conv3x3(nn.Conv2d):
    """`nn.Conv2d` with 3 × 3 taps and a margin of zeros, of any image or of an enlarged one."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D, H, W)."""
        if _pays(x, self.weight, x[:, 0].numel()):
            return _convolve(x, self._kernel(_ANY), self.bias, _ANY)
        return super().forward(x)

    def enlarged(self, x: Tensor) -> Tensor:
        """The convolution of `x` enlarged twice, each pixel four times: -> (N, D, 2 H, 2 W)."""
        if _pays(x, self.weight, 4 * x[:, 0].numel()):
            return _convolve(x, self._kernel(_ENLARGED), self.bias, _ENLARGED)
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def _kernel(self, algorithm: "_Algorithm") -> Tensor:
        kernels, key = _kernels.get(), (id(self), len(algorithm.weights))
        if kernels is None:
            return _transformed(self.weight, algorithm)
        if key not in kernels:
            kernels[key] = _transformed(self.weight, algorithm)
        return kernels[key]


@dataclass(frozen=True)
class _Algorithm:
    """One dimension of it; transforms work along the first dimension of tensors."""

    stride: int  # from tile to tile in the input
    weights: tuple[tuple[float, ...], ...]  # (r, 3)
    analyse: Callable[[Tensor, Tensor], None]  # inputs -> (r, tiles, ...), what is multiplied
    synthesise: Callable[[Tensor], tuple[Tensor, Tensor]]  # (r, ...) -> y₀ and y₁, in its memory


def _analyse(d: Tensor, out: Tensor) -> None:
    even, odd = d[0::2], d[1::2]
    d0, d1, d2, d3 = even[:-1], odd[:-1], even[1:], odd[1:]
    torch.sub(d0, d2, out=out[0])
    torch.add(d1, d2, out=out[1])
    torch.sub(d2, d1, out=out[2])
    torch.sub(d1, d3, out=out[3])


def _synthesise(m: Tensor) -> tuple[Tensor, Tensor]:
    return m[0].add_(m[1]).add_(m[2]), m[1].sub_(m[2]).sub_(m[3])


def _analyse_enlarged(d: Tensor, out: Tensor) -> None:
    before, here, after = d[:-2], d[1:-1], d[2:]
    torch.sub(before, here, out=out[0])
    out[1].copy_(here)  # d₁ + d₂ is twice that: its weights are doubled
    torch.sub(here, after, out=out[2])


def _synthesise_enlarged(m: Tensor) -> tuple[Tensor, Tensor]:
    return m[0].add_(m[1]), m[1].sub_(m[2])


_ANY = _Algorithm(
    2, ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)), _analyse, _synthesise
)
_ENLARGED = _Algorithm(
    1, ((1, 0, 0), (1, 1, 1), (0, 0, 1)), _analyse_enlarged, _synthesise_enlarged
)


def _pays(x: Tensor, weight: Tensor, pixels: int) -> bool:
    """Whether it is faster: not where a gradient is needed, nor where bf16 has matrix units (AMX),
    beside which the transforms are slow."""
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and x.dtype == weight.dtype
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and not _matrix_units()))
        and min(weight.shape[:2]) >= _CHANNELS
        and pixels >= (_PIXELS if _kernels.get() is None else _PIXELS_KEPT)
        and x.shape[-2] % 2 == x.shape[-1] % 2 == 0
    )


@functools.cache
def _matrix_units() -> bool:
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16"))


def _transformed(weight: Tensor, algorithm: _Algorithm) -> Tensor:
    """(D, C, 3, 3) -> (r · r, C, D)."""
    g = weight.new_tensor(algorithm.weights)
    taps = weight.permute(2, 3, 0, 1).flatten(0, 1)  # (9, D, C)
    products = torch.kron(g, g) @ taps.flatten(1)  # (r · r, D · C)
    return products.view(-1, *taps.shape[1:]).transpose(1, 2)


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, algorithm: _Algorithm) -> Tensor:
    """(N, C, H, W) -> (N, D, 2 h, 2 w), channels-last; some rows of tiles at a time."""
    products, channels, outputs = kernel.shape
    r, stride = len(algorithm.weights), algorithm.stride
    pixels = x.permute(0, 2, 3, 1)  # (N, H, W, C)
    count, height, width = pixels.shape[:3]
    tall, wide = height // stride, width // stride
    out = x.new_empty(count, tall, 2, wide, 2, outputs)
    size = products * count * wide * max(channels, outputs) * x.element_size()
    rows = max(1, min(tall, _BYTES // size))
    for top in range(0, tall, rows):
        bottom = min(tall, top + rows)
        first, last = top * stride - 1, bottom * stride + 1  # pixels, with a margin of one
        strip = pixels[:, max(first, 0) : last]
        strip = F.pad(strip, (0, 0, 1, 1, int(first < 0), int(last > height)))
        columns = x.new_empty(r, bottom - top, count, width + 2, channels)
        algorithm.analyse(strip.transpose(0, 1), columns)
        tiles = x.new_empty(r, r, bottom - top, count, wide, channels)
        algorithm.analyse(columns.movedim(3, 0), tiles.permute(1, 4, 0, 2, 3, 5))
        sums = torch.bmm(tiles.view(products, -1, channels), kernel)
        sums = sums.view(*tiles.shape[:-1], outputs)
        for i, row in enumerate(algorithm.synthesise(sums)):
            for j, y in enumerate(algorithm.synthesise(row)):
                place = out[:, top:bottom, i, :, j].transpose(0, 1)
                torch.add(y, 0 if bias is None else bias, out=place)
    return out.view(count, 2 * tall, 2 * wide, outputs).permute(0, 3, 1, 2)
