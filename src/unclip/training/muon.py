"""Muon: orthogonalised momentum for the hidden matrices of a network, AdamW for the rest.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale of an
update is that of Liu et al., arXiv 2502.16982, section 2.2, so that learning rates mean about what
AdamW's do.
A convolution's kernel (O, I, h, w) counts as the matrix (O, I h w).

Shapes: B matrices of one shape, R rows, C columns.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from unclip.training.parallel import Parallel

# Quintic Newton–Schulz iteration: each singular value x becomes a x + b x³ + c x⁵, five times over.
# That takes everything in (0.01, 1] to 0.7 … 1.2, which serves as well as one and is sooner done.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


class Muon(torch.optim.AdamW):
    """AdamW whose groups with `orthogonal=True` are moved by Muon instead.

    Args:
        groups: parameter groups; those that say `orthogonal=True` hold matrices and kernels.
        parallel: whose matrices may be spread over processes: each is orthogonalised as a whole,
            in every process.
        momentum: decay of the matrices' gradient average (Nesterov's).
        options: AdamW's.

    Attributes:
        dtype: what matrices are orthogonalised in. The training loop sets it to the run's
            precision: one that the device is fast with, the same in all processes, and kept when
            the run goes on elsewhere.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        parallel: Parallel,
        *,
        momentum: float = 0.95,
        **options: Any,
    ) -> None:
        super().__init__(groups, **options)
        self.parallel, self.momentum = parallel, momentum
        self.dtype = torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the matrices, whose gradients are used up by it, then AdamW's parameters."""
        for group in self.param_groups:
            if group.get("orthogonal"):
                self._descend(group)
        return super().step(closure)  # type: ignore[no-any-return]

    def _descend(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
        for same in by_shape.values():
            whole = [self.parallel.full(self._direction(p)) for p in same]
            directions = torch.stack(whole).flatten(2)
            updates = orthogonalised(directions, self.dtype)
            rows, columns = updates.shape[-2:]
            # As long, root mean square, as AdamW's updates typically are.
            rate = group["lr"] * 0.2 * max(rows, columns) ** 0.5
            for parameter, update in zip(same, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                mine = self.parallel.shard(update.view(parameter.shape), like=parameter)
                parameter.sub_(mine, alpha=rate)
                parameter.grad = None

    def _direction(self, parameter: nn.Parameter) -> Tensor:
        """The gradient, averaged: (R, C) or a kernel (O, I, h, w)."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        average: Tensor = state["momentum"]
        average.lerp_(gradient, 1 - self.momentum)
        direction: Tensor = gradient.lerp(average, self.momentum).contiguous()
        return direction


def orthogonalised(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest semi-orthogonal matrices, about, to `matrices` (B, R, C), computed in `dtype`.

    bf16 is exact enough, but it takes a hundred times as long where a CPU emulates it.
    """
    x = matrices.to(dtype)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]  # singular values at most 1
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    result: Tensor = (x if wide else x.mT).to(matrices.dtype)
    return result
