"""Distances by kernels: KID (Bińkowski et al., arXiv 1801.01401), CMMD (arXiv 2401.09603).

    MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y)

over pairs of different images. It is without bias at any number of images, so that equal
distributions give 0 on average, and a little less than 0 half of the time. Intervals are the
jackknife's: what leaving one image out changes is known from the sums of its row.

Of more than `MOST` images a set is cut into parts, and the mean of their distances is taken.

Shapes: N images, D width of features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from unclip.evaluation.intervals import Estimate, jackknife
from unclip.evaluation.metrics.matrices import ROWS, compared, directions

MOST: Final = 5_000
_SIGMA: Final = 10.0  # of CMMD's Gaussian kernel, for embeddings of unit length
_CMMD_UNIT: Final = 1000.0

Kernel = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Cmmd(Estimate):
    """CMMD without bias, and as its authors' code computes it.

    Attributes:
        published: images are paired with themselves too, so that it is never below 0 and shrinks
            with their number; for comparison with printed figures alone.
    """

    published: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "published": self.published}


def kid(a: Tensor, b: Tensor) -> Estimate:
    """With the kernel (x·y / D + 1)³ on features (N, D) and (M, D).

    Published figures are often given times 1,000.

    Raises:
        ValueError: see `compared`.
    """
    a, b = compared(a, b)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1).pow_(3)

    value, influences, _ = _mmd(a, b, kernel)
    return jackknife(value, *influences)


def cmmd(a: Tensor, b: Tensor) -> Cmmd:
    """With a Gaussian kernel, σ = 10, on CLIP's embeddings (N, D) and (M, D), times 1,000.

    They are brought to unit length here. Other features than CLIP's have no meaning that is known.

    Raises:
        ValueError: see `compared`.
    """
    a, b = (directions(z) for z in compared(a, b))

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T).sub_(1).div_(_SIGMA**2).exp_()  # |x - y|² = 2 - 2 x·y

    value, influences, published = _mmd(a, b, kernel)
    found = jackknife(value, *influences).scaled(_CMMD_UNIT)
    return Cmmd(found.value, found.low, found.high, found.note, published * _CMMD_UNIT)


def _mmd(a: Tensor, b: Tensor, kernel: Kernel) -> tuple[float, list[Tensor], float]:
    """MMD² without bias, each row's influence on it (N,) and (M,), and MMD² with bias."""
    parts = max(1, -(-max(len(a), len(b)) // MOST))
    parts = min(parts, len(a) // 2, len(b) // 2)
    pairs = zip(a.tensor_split(parts), b.tensor_split(parts), strict=True)
    values, influences, biased = zip(*(_at_once(x, y, kernel) for x, y in pairs), strict=True)
    pulls = [torch.cat(side) for side in zip(*influences, strict=True)]
    return sum(values) / parts, pulls, sum(biased) / parts


def _at_once(a: Tensor, b: Tensor, kernel: Kernel) -> tuple[float, tuple[Tensor, Tensor], float]:
    """The same of sets that are not cut."""
    n, m = len(a), len(b)
    own, self_pairs = zip(*(_others(rows, kernel) for rows in (a, b)), strict=True)
    across, back = _between(a, b, kernel)  # (N,), (M,)
    total = float(across.sum())
    value = _mean_of_pairs(own[0], n) + _mean_of_pairs(own[1], m) - 2 * total / (n * m)
    pulls = (_pull(own[0], across, n, m), _pull(own[1], back, m, n))
    squares = [(float(sums.sum()) + same) / k**2 for sums, same, k in
               zip(own, self_pairs, (n, m), strict=True)]  # fmt: skip
    return value, pulls, squares[0] + squares[1] - 2 * total / (n * m)


def _mean_of_pairs(sums: Tensor, n: int) -> float:
    return float(sums.sum()) / (n * (n - 1))


def _pull(own: Tensor, across: Tensor, n: int, m: int) -> Tensor:
    """N - 1 times what leaving each row out takes away from MMD² (N,); NaN of two rows."""
    if n < 3:
        return torch.full_like(own, torch.nan)
    among = own.sum() / (n * (n - 1)) - (own.sum() - 2 * own) / ((n - 1) * (n - 2))
    between = across.sum() / (n * m) - (across.sum() - across) / ((n - 1) * m)
    return (n - 1) * (among - 2 * between)


def _between(a: Tensor, b: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Of each row of a its kernels with all of b, (N,), and the reverse, (M,)."""
    sums, back = [], torch.zeros(len(b), dtype=b.dtype, device=b.device)
    for part in torch.split(a, ROWS):
        block = kernel(part, b)
        sums.append(block.sum(dim=1))
        back += block.sum(dim=0)
    return torch.cat(sums), back


def _others(rows: Tensor, kernel: Kernel) -> tuple[Tensor, float]:
    """Of each row its kernels with the other ones (N,), and the sum of those with themselves."""
    sums, same = [], 0.0
    for first in range(0, len(rows), ROWS):
        block = kernel(rows[first : first + ROWS], rows)
        own = block.diagonal(first)
        same += float(own.sum())
        own.zero_()
        sums.append(block.sum(dim=1))
    return torch.cat(sums), same
