"""The exponential moving average of the weights, which is what a run publishes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of a network's weights, in fp32.

    The decay is min(decay, (1 + step) / (10 + step)), so that the first, random weights are
    forgotten quickly however long the average is. All of it goes element by element, on whatever
    part of the weights this process has.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = dict(network.named_parameters())
        self.average = {name: p.detach().clone().float() for name, p in self.live.items()}
        self.away = False  # whether other weights are in the place of the live ones

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        moved = {name: p.detach().float() for name, p in self.live.items() if p.requires_grad}
        averages = [self.average[name] for name in moved]
        torch._foreach_lerp_(averages, list(moved.values()), 1 - decay)

    @contextmanager
    def in_place(self, weights: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """A block in which the network has the averaged weights, or others of the same names."""
        others = self.average if weights is None else weights
        self._swap(others)
        self.away = True
        try:
            yield
        finally:
            self.away = False
            self._swap(others)

    @torch.no_grad()
    def _swap(self, others: Mapping[str, Tensor]) -> None:
        for name, parameter in self.live.items():
            live = parameter.detach().clone()
            parameter.copy_(others[name])
            others[name].copy_(live)
        torch.clear_autocast_cache()  # of weights in a half precision
