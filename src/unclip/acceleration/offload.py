"""One component in memory at a time, for machines that a whole model does not fit into.

Networks keep their shapes and lose their weights; those are read again, mapped from the model
folder, whenever a network computes after another one has.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unclip.device.memory import give_back


class Offload:
    """Holds the weights of the network that computed last, and of no other.

    Args:
        device: where the networks compute.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.resident: nn.Module | None = None
        self._read: dict[nn.Module, Callable[[], None]] = {}

    def manage(self, network: nn.Module, read: Callable[[], None]) -> None:
        """Take over `network`, whose weights are on "meta"; `read` gives them to it."""
        self._read[network] = read
        # Networks compute in other methods than `forward` as well, and there through their layers.
        for module in network.modules():
            module.register_forward_pre_hook(lambda *_: self.fetch(network))

    def fetch(self, network: nn.Module) -> None:
        """Have the weights of `network` in memory, in the memory format that it was given."""
        if network is self.resident:
            return
        if self.resident is not None:
            self.resident.to("meta")
            give_back()  # or both are in memory while images are made, which keeps it
        self.resident = None
        channels_last = {name for name, p in network.named_parameters() if _is_channels_last(p)}
        self._read[network]()
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(False)
            if name in channels_last:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        network.to(self.device)
        self.resident = network


def is_offloaded(network: nn.Module) -> bool:
    """Whether `network` has no weights in memory at the moment."""
    return any(parameter.is_meta for parameter in network.parameters())


def _is_channels_last(parameter: Tensor) -> bool:
    return parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
