"""AdamW, its learning-rate schedule, and the exponential moving average of the weights."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unclip.training.recipe import Optimiser


def adamw(network: nn.Module, recipe: Optimiser) -> torch.optim.AdamW:
    """AdamW in one fused kernel; only matrices and kernels decay, not biases, norms or scales."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        fused=True,
    )


def learning_rate(recipe: Optimiser, step: int, steps: int) -> float:
    """Linear warm-up, constant, and a cosine to zero over the last `decay` of the steps."""
    rate = recipe.learning_rate * min(1.0, (step + 1) / max(1, recipe.warmup))
    decaying = recipe.decay * steps
    left = steps - step
    if left < decaying:
        rate *= 0.5 * (1 - math.cos(math.pi * left / decaying))
    return rate


class EMA:
    """Exponential moving average of a network's weights, in fp32.

    The decay is min(decay, (1 + step) / (10 + step)), so that the first, random weights are
    forgotten quickly however long the average is.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = dict(network.named_parameters())
        self.average = {name: p.detach().clone().float() for name, p in self.live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.average.values()), [p.detach().float() for p in self.live.values()], 1 - decay
        )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A block in which the network has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.live.items():
            live = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(live)

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.average.items():
            tensor.copy_(state[name])
