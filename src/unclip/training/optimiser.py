"""Optimisers and the learning-rate schedule."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from unclip.stages.recipe import Optimiser
from unclip.training.muon import Muon
from unclip.training.parallel import Parallel


def build(network: nn.Module, recipe: Optimiser, parallel: Parallel) -> torch.optim.AdamW:
    """The recipe's optimiser for a prepared network.

    Only matrices and kernels decay, not biases, norms or scales, nor single vectors and positions,
    whatever their shape.

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
    options: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "betas": (recipe.beta1, recipe.beta2),
        "eps": recipe.eps,
        "fused": True,
    }
    if recipe.kind == "muon":
        return Muon(groups, parallel, **options)
    return torch.optim.AdamW(groups, **options)


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
    left = max(steps - step, 0)
    if left < decaying:
        rate *= 0.5 * (1 - math.cos(math.pi * left / decaying))
    return rate


def set_learning_rate(
    optimiser: torch.optim.Optimizer, recipe: Optimiser, step: int, steps: int
) -> None:
    """Give every group of parameters its rate for a step."""
    rate = learning_rate(recipe, step, steps)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]
