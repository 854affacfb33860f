"""What a step takes of a network that no machine here could hold: counted on the meta device.

Operations are those of `training/counting.py`. Kept bytes are those of every tensor that autograd
keeps, in fp32, with attention as the fused kernels of GPUs keep it (queries, keys, values and the
result); under activation checkpointing, the inputs of every unit and all of the largest one.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from unclip.networks.clip_config import CLIPConfig
from unclip.stages.encoders import CLIP
from unclip.stages.spec import Probe
from unclip.training.counting import PROBE, saved_bytes, without
from unclip.training.units import units_of


@dataclass(frozen=True)
class Estimate:
    """Of one image and one pass forward and back, in fp32.

    Args:
        operations: of products, the frozen CLIP's among them.
        kept, checkpointed: bytes of activations; and with activation checkpointing.
        largest: parameters of the largest unit, which sharding makes whole when it computes.
    """

    operations: float
    kept: float
    checkpointed: float
    largest: int


def estimated(
    probe: Probe, network: nn.Module, settings: Any, listened: CLIPConfig, size: int
) -> Estimate:
    """Count a network of the meta device.

    Args:
        listened: the CLIP of the folder that it is trained in.
        size: pixels of a side of the data.
    """
    units = list(units_of(network))
    kept = _Kept(units)
    with torch.device("meta"), _Fused(), FlopCounterMode(display=False) as counter:
        with kept:
            total = probe.compute(network, settings, listened.text, size, PROBE)
        total.backward()  # type: ignore[no-untyped-call]
        if probe.listens:
            _read(listened)
    network.zero_grad()
    everything = {**kept.outside, **{k: v for one in kept.inside for k, v in one.items()}}
    without(everything, network)
    for one in (kept.outside, kept.inputs, *kept.inside):
        without(one, network)
    between = {**kept.outside, **kept.inputs}
    within = [sum(v for k, v in one.items() if k not in between) for one in kept.inside]
    checkpointed = sum(between.values()) + max(within, default=0)
    return Estimate(
        counter.get_total_flops() / PROBE,
        sum(everything.values()) / PROBE,
        checkpointed / PROBE,
        max((sum(p.numel() for p in unit.parameters()) for unit in units), default=0),
    )


@torch.no_grad()
def _read(config: CLIPConfig) -> None:
    """What the frozen CLIP does in a step."""
    side, length = config.vision.image_size, config.text.max_position_embeddings
    towers = CLIP(config)
    towers.encode_image(torch.empty(PROBE, 3, side, side))
    towers.encode_text(torch.zeros(PROBE, length, dtype=torch.long))


class _Kept:
    """Storages that autograd keeps while units compute, each in a dict of its own, and outside."""

    def __init__(self, units: Sequence[nn.Module]) -> None:
        self.units = units
        self.outside: dict[int, int] = {}
        self.inputs: dict[int, int] = {}
        self.inside: list[dict[int, int]] = []
        self.stack = ExitStack()
        self.of_unit = ExitStack()
        self.alive: list[Tensor] = []  # or another storage could get the place of one

    def __enter__(self) -> None:
        self.stack.enter_context(saved_bytes(self.outside))
        for unit in self.units:
            for hook in (
                unit.register_forward_pre_hook(self._before, with_kwargs=True),
                unit.register_forward_hook(self._after),
            ):
                self.stack.callback(hook.remove)

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def _before(self, unit: nn.Module, args: Any, more: Any) -> None:
        for value in (*args, *more.values()):
            if isinstance(value, Tensor) and value.requires_grad:
                storage = value.untyped_storage()
                self.inputs[storage._cdata] = storage.nbytes()
                self.alive.append(value)
        self.inside.append({})
        self.of_unit.enter_context(saved_bytes(self.inside[-1]))

    def _after(self, *_: Any) -> None:
        self.of_unit.close()


class _Fused(TorchFunctionMode):
    """Attention by the kernel of GPUs, which the meta device does not choose."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        more = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **more)
        causal = bool(more.get("is_causal"))
        q, k, v = args
        fused = torch.ops.aten._scaled_dot_product_efficient_attention
        return fused(q, k, v, None, True, 0.0, causal)[0]
