"""Weights laid out for products with few rows, which a prior's steps on a CPU are made of.

A step multiplies a few tokens with every weight, so it should take as long as reading the weights
once. F.linear takes 2 to 3.6 times as long with 2 to 24 rows; oneDNN's own layout is what reads
memory at its speed (docs/performance.md).
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.device.instructions import instructions
from unclip.device.shapes import on_meta


class PackedLinear(nn.Module):
    """`nn.Linear` for sampling on a CPU: the same up to rounding, and the same in a state dict.

    The weight is never trained and does not follow `to`; what comes in has gradients.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            return F.linear(x, self.weight.to_dense(), self.bias)
        out = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return cast(Tensor, out)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the plain weight, as oneDNN's layout has no bytes of its own."""
        return PackedLinear, (_plain(self),)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.to_dense()


def weights_of(network: nn.Module) -> list[Tensor]:
    """All in memory, those too that are laid out for a kernel, here or in int8."""
    others = (getattr(module, "weight", None) for module in network.modules())
    laid_out = [w for w in others if isinstance(w, Tensor) and not isinstance(w, nn.Parameter)]
    return [*network.parameters(), *laid_out]


def bytes_of(network: nn.Module) -> int:
    """Of its weights in memory."""
    return sum(weight.numel() * weight.element_size() for weight in weights_of(network))


def pack(network: nn.Module) -> None:
    """Replace the linear layers of `network` whose type this CPU's oneDNN can lay out."""
    packed = instructions().packed
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.Linear and child.weight.is_cpu and child.weight.dtype in packed:
                setattr(module, name, PackedLinear(child))


def unpack(network: nn.Module) -> None:
    """Undo `pack`, for a network that is to move: bit for bit the weights that were laid out."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, PackedLinear):
                setattr(module, name, _plain(child))


def _plain(packed: PackedLinear) -> nn.Linear:
    weight = packed.weight.to_dense()
    with on_meta():
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=packed.bias is not None)
    linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), packed.bias
    return linear
