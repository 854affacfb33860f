"""Convolutions and linear layers in 8-bit integers, for CPUs: an approximation, made at opening.

A weight is q · w_o with an integer q in [-127, 127] and a scale of its output channel. What comes
in is (u - z) · s with an integer u in [0, 255]; z is fixed, and s follows from the largest and the
smallest value of the sample (convolutions) or row (linear layers) at every call. So nothing has to
be calibrated, and an image does not depend on its neighbours in a batch. Sums of products are exact
in 32 bits; what is lost is the rounding of both factors, at most half a step each.

Inputs and outputs have the precision of the network, in which everything else is computed: also the
wide convolutions of large images, for which Winograd's algorithm with m = 4 is faster than integers
and in bf16 as inexact (`networks/winograd.py`).

Shapes: N samples, C channels, H and W pixels, K inputs and M outputs of a linear layer.
"""

from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.networks.layers import TimestepEmbedding
from unclip.networks.unet import UNet

# Layers that see a vector of the sample rather than pixels or tokens: nothing to gain there, and
# their errors would be the same in all pixels.
_KEPT = ("time_emb_proj", "add_k_proj", "add_v_proj")
_MIDDLE = 128  # z where the input may have either sign
_SILU = 32  # z behind SiLU, which is never below -0.28: steps are finer above zero
_TINY = 1e-30  # the least scale, that of zeros


class _Packed(nn.Module):
    """A layer whose weight is in the kernels' own order, of which there is no copy."""

    def __reduce__(self) -> NoReturn:
        raise ValueError("int8 weights cannot be copied or pickled: open the model once more")


class Int8Linear(_Packed):
    """`layer` in 8 bits: (…, K) → (…, M). Not differentiable."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        quantised, self.scales, self.shift = _weight(layer, _MIDDLE)
        # Plain attributes: the kernels' own order of a weight cannot be moved, converted or saved.
        self.weight = torch.ops.onednn.qlinear_prepack(quantised.flatten(1), None)
        self.zeros = torch.zeros(len(self.scales), dtype=torch.long)
        self.bias = _bias(layer)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        values, scale = _quantised(x, (-1,), _MIDDLE)
        made = torch.ops.onednn.qlinear_pointwise(
            values.to(torch.uint8).contiguous(), 1.0, 0, self.weight, self.scales, self.zeros,
            self.shift, 1.0, 0, x.dtype, "none", [], "",
        )  # fmt: skip
        return torch.addcmul(self.bias, made, scale)


class Int8Pointwise(Int8Linear):
    """A 1 × 1 convolution, which is a linear layer on every pixel: (N, C, H, W) → (N, M, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Int8Conv2d(_Packed):
    """`layer` in 8 bits: (N, C, H, W) → (N, M, H', W'), channels-last. Not differentiable."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        assert layer.groups == 1
        assert layer.padding_mode == "zeros"
        assert not isinstance(layer.padding, str)
        self.stride, self.dilation = list(layer.stride), list(layer.dilation)
        self.top, self.left = layer.padding
        quantised, self.scales, self.shift = _weight(layer, _SILU)
        self.weight = torch.ops.onednn.qconv_prepack(
            quantised, self.scales, 1.0, 0, self.stride, [0, 0], self.dilation, 1, None
        )
        self.zeros = torch.zeros(len(self.scales), dtype=torch.long)
        self.bias = _bias(layer)[:, None, None]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        values, scale = _quantised(x, (1, 2, 3), _SILU)
        # The border is padded here, with z: a kernel that is told of z takes twice as long on
        # small images, as it sums up its weights anew at each call.
        n, c, height, width = x.shape
        rows, columns = height + 2 * self.top, width + 2 * self.left
        padded = torch.full((n, rows, columns, c), _SILU, dtype=torch.uint8).permute(0, 3, 1, 2)
        padded[..., self.top : self.top + height, self.left : self.left + width] = values
        made = torch.ops.onednn.qconv_pointwise(
            padded, 1.0, 0, self.weight, self.scales, self.zeros, self.shift, self.stride, [0, 0],
            self.dilation, 1, 1.0, 0, x.dtype, "none", [], "",
        )  # fmt: skip
        return torch.addcmul(self.bias, made, scale)

    def enlarged(self, x: Tensor) -> Tensor:
        """As `Conv3x3.enlarged`, for a layer of that kind."""
        made: Tensor = self(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return made


@torch.no_grad()
def to_int8(network: nn.Module) -> None:
    """Replace the convolutions and linear layers in the blocks of `network`.

    Kept as they are: its first and last layers, what makes embeddings of timesteps, `_KEPT`, and
    the convolutions for which integers are not the fastest.
    """
    kept: set[nn.Module] = set()
    if isinstance(network, UNet):
        kept = {conv for conv, side in network.convolutions() if conv.coarsen(side)}
    for block in network.children():
        if isinstance(block, nn.Conv2d | nn.Linear | TimestepEmbedding):
            continue
        for module in list(block.modules()):
            for name, layer in list(module.named_children()):
                if name in _KEPT or layer in kept:
                    continue
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    setattr(module, name, _replaced(layer))


def is_int8(network: nn.Module) -> bool:
    """Whether `network` has layers in 8 bits."""
    return any(isinstance(module, Int8Linear | Int8Conv2d) for module in network.modules())


def _replaced(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return Int8Linear(layer)
    return Int8Pointwise(layer) if layer.kernel_size == (1, 1) else Int8Conv2d(layer)


def _weight(layer: nn.Conv2d | nn.Linear, zero: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, the scales (M,), and what subtracts z from the inputs of all products: (M,)."""
    weight = layer.weight.detach().float().contiguous()
    scales = (weight.flatten(1).abs().amax(1) / 127).clamp(min=_TINY)
    quantised = (weight / scales.view(-1, *[1] * (weight.ndim - 1))).round()
    shift = quantised.flatten(1).double().sum(1) * scales * -zero
    return quantised.to(torch.int8), scales, shift.float()


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    if layer.bias is None:
        return layer.weight.new_zeros(len(layer.weight))
    return layer.bias.detach().clone()


def _quantised(x: Tensor, dims: tuple[int, ...], zero: int) -> tuple[Tensor, Tensor]:
    """u, and the scales over `dims` in the precision of `x`.

    u are fp32 numbers in [0, 256), whose fractions the conversion to integers cuts off.
    """
    low, high = x.amin(dims, keepdim=True).float(), x.amax(dims, keepdim=True).float()
    scale = torch.maximum(high / (255 - zero), low / -zero).clamp(min=_TINY).to(x.dtype)
    return x.float().mul(scale.float().reciprocal()).add_(zero + 0.5), scale
