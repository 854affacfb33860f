"""Sharpness-aware minimisation (Foret et al., arXiv 2010.01412): gradients of the worst neighbour.

unCLIP trains its CLIP so (appendix C: rho 0.1, in each replica by itself), which lowers the rank of
the embeddings.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import nn

from unclip.training.parallel import Parallel

T = TypeVar("T")


def sharpness_aware(
    backward: Callable[[], T],
    parameters: Iterable[nn.Parameter],
    rho: float,
    parallel: Parallel,
    apart: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> T:
    """Add to `.grad` the gradient at w + rho g / ‖g‖, where g is the gradient at w.

    Equation 3 of the paper, over all parameters together; every replica moves along its own g, as
    gradients are averaged only afterwards. The weights are the same bits again when it returns,
    and nothing is kept for the next step.

    Args:
        backward: computes a loss and its gradients; called twice, and must draw the same noise.
        parameters: those that are trained.
        rho: how far to look, in the weights' own units.
        parallel: who knows ‖g‖ of a replica.
        apart: a block in which gradients stay with the replica that computes them.

    Returns:
        What `backward` returned at w itself.
    """
    trained = [p for p in parameters if p.requires_grad]
    before = [p.grad for p in trained]  # of a batch's earlier parts
    for parameter in trained:
        parameter.grad = None
    with apart():
        result = backward()
    moved = [p for p in trained if p.grad is not None]
    kept = [p.detach().clone() for p in moved]
    gradients = [p.grad.float() for p in moved if p.grad is not None]
    norm = parallel.replica_norm(gradients)
    with torch.no_grad():
        for parameter, gradient in zip(moved, gradients, strict=True):
            parameter.add_(gradient * (rho / (norm + 1e-12)))
    for parameter, old in zip(trained, before, strict=True):
        parameter.grad = old
    backward()
    with torch.no_grad():
        for parameter, old_value in zip(moved, kept, strict=True):
            parameter.copy_(old_value)
    return result
