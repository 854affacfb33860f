"""3 × 3 convolutions with fewer multiplications, where a CPU samples from wide layers.

Winograd's algorithms as Lavin & Gray (arXiv 1509.09308, section 4) have them: the m × m outputs of
a tile are Aᵀ [(G w Gᵀ) ⊙ (Bᵀ d B)] A of its patch d of inputs and the taps w, where products are
summed over channels. With m = 2 a tile takes 16 products for each pair of channels, with m = 4 36;
the definition takes 36 and 144. The three transforms are products of their own, with matrices
Aᵀ ⊗ Aᵀ and so on: few operations, since no channels are summed over.

The same numbers but for rounding. In fp32 they are as near to the truth as the direct sum. In bf16,
where that sum is rounded once, so are transformed inputs, weights and products: with m = 2 up to
four times its error, of which a network's output hardly shows anything (docs/performance.md), with
m = 4 up to twelve times, about that of 8-bit integers. Tests hold these bounds.

Shapes: N samples, C channels in, D out, H × W pixels, h × w tiles, n × n inputs of a tile.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.device.instructions import instructions

_BYTES = 16 * 2**20  # of transformed inputs at a time: what caches hold, and no more memory
_CHANNELS = 256  # fewer are bound by memory, not by multiplications
_PIXELS = 1024  # of all samples: with fewer, transforming the weights takes longer than it saves
_PIXELS_KEPT = 512  # the same where they are transformed already
_PIXELS_FOUR = 4096  # with m = 4, whose transformed weights, 4 times as many, are never kept

Matrix = tuple[tuple[float, ...], ...]
Kernels = dict[tuple["Conv3x3", "Algorithm"], Tensor]  # transformed weights
_kernels: ContextVar[Kernels | None] = ContextVar("kernels", default=None)


@dataclass(frozen=True)
class Algorithm:
    """One dimension of it: m outputs from n inputs and three taps."""

    stride: int  # inputs from tile to tile
    outputs: Matrix  # Aᵀ (m, n)
    taps: Matrix  # G (n, 3)
    inputs: Matrix  # Bᵀ (n, n)


_A = 2**0.5
TWO = Algorithm(  # interpolation at 0, 1, -1 and infinity
    2,
    ((1, 1, 1, 0), (0, 1, -1, -1)),
    ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
)
FOUR = Algorithm(  # at 0, ± 1/√2, ± √2 and infinity: half the error of 0, ± 1, ± 2
    4,
    (
        (1, 1, 1, 1, 1, 0),
        (0, _A / 2, -_A / 2, _A, -_A, 0),
        (0, 1 / 2, 1 / 2, 2, 2, 0),
        (0, _A / 4, -_A / 4, 2 * _A, -2 * _A, 1),
    ),
    (
        (1, 0, 0),
        (-2 / 3, -_A / 3, -1 / 3),
        (-2 / 3, _A / 3, -1 / 3),
        (1 / 6, _A / 6, 1 / 3),
        (1 / 6, -_A / 6, 1 / 3),
        (0, 0, 1),
    ),
    (
        (1, 0, -5 / 2, 0, 1, 0),
        (0, -_A, -2, _A / 2, 1, 0),
        (0, _A, -2, -_A / 2, 1, 0),
        (0, -_A / 2, -1 / 2, _A, 1, 0),
        (0, _A / 2, -1 / 2, -_A, 1, 0),
        (0, 1, 0, -5 / 2, 0, 1),
    ),
)
# `TWO` of an image whose pixels were just repeated: the middle two inputs of a tile are equal, so
# that one product is always 0, and pixels are read before they are repeated. 9 products, not 16.
ENLARGED = Algorithm(
    1,
    ((1, 1, 0), (0, 1, -1)),
    ((1, 0, 0), (1, 1, 1), (0, 0, 1)),
    ((1, -1, 0), (0, 1, 0), (0, 1, -1)),
)


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

    coarse = False  # take m = 4 in bf16 too, though its errors are those of 8-bit integers

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def coarsen(self, side: int) -> bool:
        """Set `coarse` if that is the fastest way for images of `side` pixels, and say so.

        Faster than 8-bit integers it is in bf16 only.
        """
        wide = min(self.in_channels, self.out_channels) >= _CHANNELS
        self.coarse = _direct_is_slow(self.weight.dtype) and wide and side**2 >= _PIXELS_FOUR
        return self.coarse

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D, H, W)."""
        pixels, four = x[:, 0].numel(), self.coarse or x.dtype == torch.float32
        if four and self._pays(x, FOUR, pixels):
            return _convolve(x, _transformed(self.weight, FOUR), self.bias, FOUR)
        if self._pays(x, TWO, pixels):
            return _convolve(x, self._kernel(TWO), self.bias, TWO)
        return super().forward(x)

    def enlarged(self, x: Tensor) -> Tensor:
        """The convolution of `x` enlarged twice, each pixel four times: -> (N, D, 2 H, 2 W)."""
        if self._pays(x, ENLARGED, 4 * x[:, 0].numel()):
            return _convolve(x, self._kernel(ENLARGED), self.bias, ENLARGED)
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def _pays(self, x: Tensor, algorithm: Algorithm, pixels: int) -> bool:
        """Whether it is faster: not where a gradient is needed."""
        return (
            x.device.type == "cpu"
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and x.dtype == self.weight.dtype
            and (x.dtype == torch.float32 or _direct_is_slow(x.dtype))
            and min(self.in_channels, self.out_channels) >= _CHANNELS
            and pixels >= _least(algorithm)
            and x.shape[-2] % algorithm.stride == x.shape[-1] % algorithm.stride == 0
        )

    def _kernel(self, algorithm: Algorithm) -> Tensor:
        kernels, key = _kernels.get(), (self, algorithm)
        if kernels is None:
            return _transformed(self.weight, algorithm)
        if key not in kernels:
            kernels[key] = _transformed(self.weight, algorithm)
        return kernels[key]


def _least(algorithm: Algorithm) -> int:
    """Pixels from which on `algorithm` is worth it."""
    if algorithm is FOUR:
        return _PIXELS_FOUR
    return _PIXELS if _kernels.get() is None else _PIXELS_KEPT


def _direct_is_slow(dtype: torch.dtype) -> bool:
    """In bf16: unless it has matrix units (AMX), beside which the transforms are slow."""
    return dtype == torch.bfloat16 and not instructions().matrix_units


@functools.cache
def _squared(matrix: Matrix, dtype: torch.dtype) -> Tensor:
    """Both dimensions at once: matrix ⊗ matrix."""
    one = torch.tensor(matrix, dtype=torch.float64, device="cpu")
    return torch.kron(one, one).to(dtype)


def _transformed(weight: Tensor, algorithm: Algorithm) -> Tensor:
    """(D, C, 3, 3) -> (n · n, C, D)."""
    taps = weight.permute(2, 3, 0, 1).flatten(0, 1)  # (9, D, C)
    kernel = _squared(algorithm.taps, weight.dtype) @ taps.flatten(1)
    return kernel.view(-1, *taps.shape[1:]).transpose(1, 2)


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, algorithm: Algorithm) -> Tensor:
    """(N, C, H, W) -> (N, D, m · h, m · w), channels-last; some rows of tiles at a time."""
    stride, m, n = algorithm.stride, len(algorithm.outputs), len(algorithm.inputs)
    analysis = _squared(algorithm.inputs, x.dtype)
    synthesis = _squared(algorithm.outputs, x.dtype)
    pixels = x.permute(0, 2, 3, 1)  # (N, H, W, C)
    channels, outputs = kernel.shape[1:]
    count, height, width = pixels.shape[:3]
    tall, wide = height // stride, width // stride
    out = x.new_empty(count, tall, m, wide, m, outputs)
    size = n * n * count * wide * max(channels, outputs) * x.element_size()
    rows = max(1, min(tall, _BYTES // size))
    for top in range(0, tall, rows):
        bottom = min(tall, top + rows)
        first, last = top * stride - 1, (bottom - 1) * stride + n - 1  # pixels, with the margin
        strip = pixels[:, max(first, 0) : last]
        strip = F.pad(strip, (0, 0, 1, n - stride - 1, int(first < 0), max(0, last - height)))
        tiles = strip.unfold(1, n, stride).unfold(2, n, stride)  # (N, rows, w, C, n, n)
        tiles = tiles.permute(4, 5, 0, 1, 2, 3).reshape(n * n, -1)
        sums = torch.bmm((analysis @ tiles).view(n * n, -1, channels), kernel)
        made = (synthesis @ sums.view(n * n, -1)).view(m, m, count, -1, wide, outputs)
        place = out[:, top:bottom]  # (N, rows, m, w, m, D)
        torch.add(made.permute(2, 3, 0, 4, 1, 5), 0 if bias is None else bias, out=place)
    return out.view(count, m * tall, m * wide, outputs).permute(0, 3, 1, 2)
