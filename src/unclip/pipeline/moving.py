"""An opened model on another device, or in another precision."""

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unclip.acceleration.int8 import is_int8
from unclip.acceleration.packing import pack, unpack
from unclip.checks import shown
from unclip.device.memory import give_back
from unclip.device.names import PRECISIONS, usual
from unclip.device.precision import device_named, dtype_named
from unclip.pipeline.loading import LoadedModel
from unclip.pipeline.saving import is_offloaded_model

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline


def wanted(
    words: Sequence[Any], device: Any, dtype: Any, here: torch.device
) -> tuple[torch.device, torch.dtype | None]:
    """What `to(...)` is asked for: device and data type, in either order or by keyword.

    Args:
        here: the device if none is named.

    Raises:
        ValueError: more than one of either, or what this machine does not have.
    """
    devices = [] if device is None else [device]
    dtypes = [] if dtype is None else [dtype]
    for word in words:
        is_dtype = isinstance(word, torch.dtype) or usual(word) in PRECISIONS[1:]
        if word is not None:
            (dtypes if is_dtype else devices).append(word)
    if len(devices) > 1 or len(dtypes) > 1:
        said = ", ".join(map(shown, devices if len(devices) > 1 else dtypes))
        raise ValueError(f"to() takes one device and one data type, not {said}")
    named: Any = devices[0] if devices else here
    place = device_named(f"cuda:{named}" if type(named) is int else named)
    return place, dtype_named(dtypes[0], place) if dtypes else None


def move(pipe: "Pipeline", device: torch.device, dtype: torch.dtype | None) -> None:
    """Have all networks on `device` and, unless it is None, in `dtype`, in place.

    In a precision that has fewer digits the others are lost, as everywhere in torch.

    Raises:
        ValueError: the weights are on the disk or in 8 bits, and stay so.
    """
    if device == pipe.device and dtype in (None, pipe.dtype):
        return
    if is_offloaded_model(pipe):
        raise ValueError("an offloaded model cannot be moved: open it with the device and dtype")
    if pipe.engine != "torch":
        raise ValueError(
            f"engine {pipe.engine} has its own copy of the weights: open it with the dtype"
        )
    if is_int8(pipe.decoder.network) or dtype == torch.int8:
        raise ValueError("int8 is made when a model is opened: open it with the dtype and device")
    model = LoadedModel(pipe.clip, [*pipe.priors.values()], pipe.decoder, pipe.upsamplers)
    towers = [tower for tower in (pipe.clip.text_encoder, pipe.clip.image_encoder) if tower]
    for network in [*towers, *model.networks]:
        unpack(network)
        _convert(network, device, dtype)
    pipe.clip.to(device)
    for prior in pipe.priors.values():
        pack(prior.network)
    pipe.forget()
    give_back()


def _convert(network: nn.Module, device: torch.device, dtype: torch.dtype | None) -> None:
    """Tables that are worth their precision (`FLOAT32`) keep it, as when they are read."""
    exact = tuple(getattr(network, "FLOAT32", ()))
    named = chain(network.named_parameters(), network.named_buffers())
    kept = {name: tensor.data for name, tensor in named if exact and name.startswith(exact)}
    network.to(device, dtype)
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        if name in kept:
            tensor.data = kept[name].to(device)
