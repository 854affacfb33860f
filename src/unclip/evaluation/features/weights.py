"""Weights of other people's networks: renamed to ours, and then as strict as everywhere.

A published network's safetensors hold more than its features need (classifiers, counters) under
names of their own. A function says what each is called here, or that it is not wanted.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from unclip.checks import shown
from unclip.files import read_safetensors
from unclip.storage.weights import weight_files

Rename = Callable[[str], str | None]


def fill(network: nn.Module, folder: Path, rename: Rename = lambda key: key) -> None:
    """Give a network, made on the device "meta", the weights of a folder, in fp32.

    Args:
        rename: a tensor's name in the file → its name here, or None for one that is not wanted.

    Raises:
        ValueError: no safetensors, or a tensor that is missing, unknown, of another shape, not
            finite or there twice.
    """
    wanted = {key: tensor.shape for key, tensor in network.state_dict().items()}
    found: dict[str, Tensor] = {}
    for file in weight_files(folder):
        for key, tensor in read_safetensors(file).items():
            name = rename(key)
            if name is None:
                continue
            if name not in wanted or name in found:
                raise ValueError(
                    f"{file} has a tensor {shown(key)} that this network does not have"
                    + (" a second time" if name in found else "")
                )
            if tensor.shape != wanted[name] or not tensor.is_floating_point():
                raise ValueError(
                    f"{file}: tensor {shown(key)} is {tensor.dtype} {tuple(tensor.shape)}, not "
                    f"floats {tuple(wanted[name])}"
                )
            if not tensor.isfinite().all():
                raise ValueError(f"{file}: tensor {shown(key)} has values that are not finite")
            found[name] = tensor.float()
    missing = sorted(set(wanted) - set(found))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{folder} lacks the tensor {missing[0]!r}{more} (as it is called here)")
    network.load_state_dict(found, strict=True, assign=True)


class Norm(nn.Module):
    """The four tensors of a trained batch normalisation."""

    def __init__(self, width: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.running_mean: Tensor
        self.running_var: Tensor


def convolved(x: Tensor, conv: nn.Conv2d, norm: Norm, padding: int | tuple[int, int] = 0) -> Tensor:
    """A convolution and its normalisation in one pass over the image."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    weight = conv.weight * scale[:, None, None, None]
    stride = (conv.stride[0], conv.stride[1])
    return torch.nn.functional.conv2d(x, weight, shift, stride, padding, 1, conv.groups)
