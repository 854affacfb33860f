"""Optimisers, the learning-rate schedule, and the exponential moving average of the weights."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unclip.training.muon import Muon
from unclip.training.recipe import Optimiser


def build(network: nn.Module, recipe: Optimiser) -> torch.optim.AdamW:
    """The recipe's optimiser. Only matrices and kernels decay, not biases, norms or scales, nor
    single vectors and positions, whatever their shape.

    Each group has a `scale`, the factor of its learning rate on the recipe's.
    """
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    hidden = {name for name, p in named if recipe.kind == "muon" and _is_hidden(name, p)}
    parts = {
        "matrices": [p for name, p in named if name in hidden],
        "decaying": [p for name, p in named if name not in hidden and _decays(name, p)],
        "plain": [p for name, p in named if name not in hidden and not _decays(name, p)],
    }
    groups = [
        {
            "params": parameters,
            "weight_decay": 0.0 if kind == "plain" else recipe.weight_decay,
            "orthogonal": kind == "matrices",
            "scale": recipe.matrix_rate / recipe.learning_rate if kind == "matrices" else 1.0,
        }
        for kind, parameters in parts.items()
        if parameters
    ]
    return (Muon if recipe.kind == "muon" else torch.optim.AdamW)(
        groups,
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        fused=True,
    )


def _decays(name: str, parameter: Tensor) -> bool:
    """Whether it mixes features: a vector does not, not even one of shape (1, 1, D)."""
    return parameter.numel() > max(parameter.shape, default=1) and "position" not in name


def _is_hidden(name: str, parameter: Tensor) -> bool:
    """Whether Muon is meant for it: a matrix between hidden features, no embedding, first or last.

    Both ends of a network are known by few rows or columns, or by what they are called.
    """
    if parameter.ndim < 2 or parameter[0].numel() == 1 or len(parameter) < 8:
        return False
    return not any(part in _ENDS for part in name.split("."))


_ENDS = {
    "token_embedding", "position_embedding", "patch_embedding", "text_projection",
    "visual_projection", "conv_in", "conv_out", "positional_embedding", "proj_to_clip_embeddings",
    "code_embedding", "dot_embedding", "cond_proj",
}  # fmt: skip


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
