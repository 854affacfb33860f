"""What training does to the units that a network repeats (`networks/layers.py`), one by one.

Names of modules and parameters stay what they are: it is each unit's `forward` that is replaced.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from unclip.acceleration.compiling import check_compiler, compiled
from unclip.networks.layers import Unit


def units_of(network: nn.Module) -> Iterator[Unit]:
    """Those that hold no others, in the network's order."""
    for module in network.modules():
        if isinstance(module, Unit):
            yield module


def compile_units(network: nn.Module, device: torch.device) -> None:
    """Have torch compile every unit when it first computes.

    By itself, so that its gradients are there, and exchanged, while the units before it compute
    theirs.

    Raises:
        ValueError: torch cannot compile here.
    """
    check_compiler(device, "leave training.compile out")
    for unit in units_of(network):
        unit.forward = compiled(unit.forward)


def checkpoint_units(network: nn.Module) -> None:
    """Have every unit keep nothing but its inputs for the backward pass, which computes it again.

    With the same dropout, so that losses and gradients stay what they are, to the last bit. After
    `compile_units`, what is computed again is compiled too.
    """
    for unit in units_of(network):
        if getattr(unit.forward, "func", None) is checkpoint:
            continue  # so already
        unit.forward = partial(checkpoint, unit.forward, use_reentrant=False)
