"""The Fréchet distance between two sets of features (FID; Heusel et al., arXiv 1706.08500).

    FID = |μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½)                              (eq. 6)

The trace of the root is the sum of the singular values of F_a F_bᵀ for any factors with
F_aᵀ F_a = Σ_a and F_bᵀ F_b = Σ_b. That loses no digits where a covariance is singular: neither a
ridge nor complex numbers are needed. A factor is the centred rows themselves where there are no
more of them than dimensions, and else a triangle of Cholesky's, so that no matrix is larger than
min(N, D) on a side.

The distance is too large with few images, by about as much again with half of them. `extrapolated`
follows it to infinitely many (Chong and Forsyth, arXiv 1911.07023).

Intervals are those of the first order: by how much each image moves the distance, which for
Gaussians is known in closed form (Rippl, Munk and Sturm, arXiv 1507.04090).

Shapes: N images, D width of features, R = min(N, D).
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from unclip.evaluation.intervals import Estimate, jackknife
from unclip.evaluation.metrics.matrices import compared
from unclip.networks.pca import Moments

SHARES: Final = (1, 2, 4)
"""Into so many parts the images are cut, for as many sizes of sets: n, n / 2, n / 4."""


@dataclass(frozen=True)
class Extrapolation:
    """The distance by the number of images, and where it leads.

    Attributes:
        at: images of the smaller set → the mean distance of disjoint parts of that size.
        limit: for infinitely many: where the straight line in 1 / n meets 0. Below 0 it means no
            distance that this many images could show.
    """

    at: dict[int, float]
    limit: Estimate

    def to_dict(self) -> dict[str, Any]:
        return {
            "at": {str(n): value for n, value in self.at.items()},
            "limit": self.limit.to_dict(),
        }


@dataclass(frozen=True)
class _Side:
    """One set of rows as factors: its centred rows are `basis` @ `factor`.

    Attributes:
        rows: centred (N, D).
        basis: (N, R), orthonormal columns; None is the identity.
        factor: (R, D).
    """

    rows: Tensor
    mean: Tensor
    basis: Tensor | None
    factor: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "_Side":
        mean = features.mean(dim=0)
        rows = features - mean
        count, width = rows.shape
        if count <= width:
            return cls(rows, mean, None, rows)
        gram = rows.T @ rows  # (D, D)
        lower, failed = torch.linalg.cholesky_ex(gram)
        diagonal = lower.diagonal().square()
        if int(failed) or float(diagonal.min()) <= width * 1e-15 * float(gram.diagonal().max()):
            return cls._singular(rows, mean, gram)
        basis = torch.linalg.solve_triangular(lower, rows.T, upper=False).T
        return cls(rows, mean, basis, lower.T)

    @classmethod
    def _singular(cls, rows: Tensor, mean: Tensor, gram: Tensor) -> "_Side":
        values, vectors = torch.linalg.eigh(gram)
        kept = values > len(values) * 1e-15 * values.max().clamp(min=1e-300)
        roots, vectors = values[kept].sqrt(), vectors[:, kept]
        return cls(rows, mean, (rows @ vectors) / roots, roots[:, None] * vectors.T)


def fid(a: Tensor, b: Tensor) -> Estimate:
    """The distance between features (N, D) and (M, D), with the interval for sets of these sizes.

    Raises:
        ValueError: see `compared`.
    """
    a, b = compared(a, b)
    value, *influences = _distance(a, b)
    return jackknife(value, *influences, note=_note(len(a), len(b), a.shape[1]), least=0.0)


def extrapolated(a: Tensor, b: Tensor) -> Extrapolation:
    """The distance at the whole, the half and the quarter of both sets, and for infinitely many.

    The parts are disjoint and cover the sets, so that each size is measured on all images. They are
    cut in the order of the rows, which must stand for nothing.

    Raises:
        ValueError: see `compared`; or a quarter has fewer than two images.
    """
    a, b = compared(a, b, least=2 * max(SHARES))
    pulls: list[list[Tensor]] = []
    at: dict[int, float] = {}
    for share in SHARES:
        parts = [
            _distance(x, y)
            for x, y in zip(a.tensor_split(share), b.tensor_split(share), strict=True)
        ]
        values, ours, theirs = zip(*parts, strict=True)
        pulls.append([torch.cat(ours), torch.cat(theirs)])
        at[min(len(a), len(b)) // share] = sum(values) / share
    weights = _intercept([1 / n for n in at])
    limit = sum(w * value for w, value in zip(weights, at.values(), strict=True))
    influences = [
        sum((w * pull[side] for w, pull in zip(weights, pulls, strict=True)), torch.zeros(()))
        for side in (0, 1)
    ]
    few = min(len(a), len(b)) // max(SHARES)
    note = ""
    if few <= a.shape[1]:
        note = (
            f"a quarter has {few:,} images, not more than the {a.shape[1]:,} dimensions: the line "
            "is bent there, its end a bound from above at best, and without an interval"
        )
    if note:  # an interval of the line's end says nothing of where a bent one leads
        return Extrapolation(at, Estimate(limit, math.nan, math.nan, note))
    return Extrapolation(at, jackknife(limit, *influences))


def frechet_distance(a: Moments, b: Moments) -> float:
    """The distance between Gaussians, of moments alone.

    Raises:
        ValueError: the widths differ, there are fewer than two rows, or values are not finite.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"embeddings of width {len(a.mean)} and {len(b.mean)} cannot be compared; take one CLIP"
        )
    if min(a.count, b.count) < 2:
        raise ValueError("a Fréchet distance needs two images or more on either side")
    roots = []
    for covariance in (a.covariance, b.covariance):
        if not covariance.isfinite().all():
            raise ValueError("there are embeddings with values that are not finite")
        roots.append(matrix_root(covariance))
    traces = a.covariance.trace() + b.covariance.trace()
    shared = torch.linalg.svdvals(roots[0] @ roots[1]).sum()
    distance = (a.mean - b.mean).square().sum() + traces - 2 * shared
    return max(0.0, float(distance))


def matrix_root(matrix: Tensor) -> Tensor:
    """The positive root (D, D) of a symmetric matrix (D, D) without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _distance(a: Tensor, b: Tensor) -> tuple[float, Tensor, Tensor]:
    """The distance, and for each row by how much it moves it, times the number of rows.

    With x a centred row of a, δ the difference of means and T the linear map that carries Σ_a to
    Σ_b: 2 δ·x + |x|² - xᵀ T x, up to a constant. Where F_a F_bᵀ = P S Qᵀ, the last term is the
    row's part of B_a P S Pᵀ B_aᵀ, so that T itself is never needed.
    """
    left, right = _Side.of(a), _Side.of(b)
    scale = math.sqrt((len(a) - 1) * (len(b) - 1))
    p, s, qt = torch.linalg.svd(left.factor @ right.factor.T, full_matrices=False)
    shift = left.mean - right.mean
    spread = [side.rows.square().sum() / (len(side.rows) - 1) for side in (left, right)]
    value = shift.square().sum() + spread[0] + spread[1] - 2 * s.sum() / scale
    pulls = []
    for side, vectors, other, sign in ((left, p, right, 1), (right, qt.T, left, -1)):
        held = vectors if side.basis is None else side.basis @ vectors  # (N, K)
        carried = (held.square() * s).sum(dim=1)
        carried *= math.sqrt((len(side.rows) - 1) / (len(other.rows) - 1))
        pulls.append(2 * sign * side.rows @ shift + side.rows.square().sum(dim=1) - carried)
    return max(0.0, float(value)), pulls[0], pulls[1]


def _intercept(places: list[float]) -> list[float]:
    """How much each value counts for a straight line's value at 0, by least squares."""
    x = torch.tensor(places, dtype=torch.float64)
    design = torch.stack([torch.ones_like(x), x], dim=1)
    return [float(w) for w in torch.linalg.pinv(design)[0]]


def _note(n: int, m: int, width: int) -> str:
    few = min(n, m)
    if few > width:
        return ""
    return (
        f"{few:,} images are not more than the {width:,} dimensions: the distance is far too "
        "large, and says only which of two sets of the same size is nearer; KID and CMMD are "
        "without bias at any number"
    )
