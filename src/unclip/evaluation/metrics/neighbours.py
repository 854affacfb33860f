"""Precision and recall (Kynkäänniemi et al., arXiv 1904.06991), density and coverage (Naeem et al.,
arXiv 2002.09797), by balls around images that reach to their k-th nearest neighbour.

| | fraction of | that lie in a ball of |
|---|---|---|
| precision | generated images | a real one |
| recall | real images | a generated one |
| density | 1 / k times the number of real balls that a generated image lies in | |
| coverage | real images | whose own ball has a generated one |

All four depend on the number of images: compare at equal numbers only. Intervals are those of the
grouped jackknife: everything is counted again without each tenth of both sets, balls included.

Shapes: N real images, M generated ones, D width of features.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor

from unclip.checks import whole_number
from unclip.evaluation.intervals import Estimate, Z, student, wilson
from unclip.evaluation.metrics.matrices import ROWS, compared

K: Final = 5
_GROUPS: Final = 10
_SPARE: Final = 2  # times as many neighbours are kept as are needed, for those that are left out


@dataclass(frozen=True)
class Neighbours:
    """Precision, recall, density and coverage, with intervals; k of the balls."""

    k: int
    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate

    def to_dict(self) -> dict[str, Any]:
        return {"k": self.k} | {name: found.to_dict() for name, found in self.estimates().items()}

    def estimates(self) -> dict[str, Estimate]:
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "k"}


def prdc(real: Tensor, fake: Tensor, k: int = K) -> Neighbours:
    """All four of features (N, D) of real images and (M, D) of generated ones.

    Raises:
        ValueError: see `compared`; or k is not below the number of images on both sides.
    """
    whole_number(k, "k", 1)
    real, fake = compared(real, fake)
    if k >= min(len(real), len(fake)):
        raise ValueError(
            f"the {k}. nearest neighbour was asked for, but there are {len(real):,} real and "
            f"{len(fake):,} generated images; take a smaller k, or more images"
        )
    groups = _GROUPS if min(len(real), len(fake)) >= _GROUPS * (k + 1) else 0
    columns = _count(real, fake, k, groups).T.tolist()  # 4 of (1 + groups)
    cases = (len(fake), len(real), 0, len(real))
    found = [_estimate(*both) for both in zip(columns, cases, strict=True)]
    return Neighbours(k, *found)


def _estimate(values: list[float], cases: int) -> Estimate:
    """Of all images, and without each group of them.

    Args:
        cases: of which the value is a fraction; 0 where it is none. A fraction's interval is
            Wilson's for as many independent cases as would vary as much.
    """
    whole, without = values[0], values[1:]
    if not without:
        return Estimate(whole, math.nan, math.nan, "too few images for an interval")
    groups, middle = len(without), sum(without) / len(without)
    variance = (groups - 1) / groups * sum((x - middle) ** 2 for x in without)
    if not cases:
        return Estimate.of(whole, math.sqrt(variance) * student(groups - 1) / Z, least=0.0)
    # At 0 and at 1 the binomial spread is that of two cases more of either kind (Agresti, Coull).
    near = whole if 0 < whole < 1 else (whole * cases + 2) / (cases + 4)
    alike = min(cases, near * (1 - near) / variance) if variance else cases
    return Estimate(whole, *wilson(whole * alike, alike))


def _count(real: Tensor, fake: Tensor, k: int, groups: int) -> Tensor:
    """The four numbers (1 + groups, 4): of all, then without the g-th group of either side."""
    balls, fakes = _radii(real, k, groups), _radii(fake, k, groups)  # (1 + groups, N), (…, M)
    hits = torch.zeros_like(fakes)  # real balls that a generated image lies in
    recalled, covered = torch.zeros_like(balls), torch.zeros_like(balls)
    own, other = _group(len(real), groups), _group(len(fake), groups)
    for first in range(0, len(real), ROWS):
        rows = slice(first, first + ROWS)
        distances = _distances(real[rows], fake)
        for g in range(groups + 1):
            kept, theirs = (own[rows] != g - 1)[:, None], other != g - 1
            hits[g] += ((distances < balls[g, rows, None]) & kept).sum(dim=0)
            recalled[g, rows] = ((distances < fakes[g]) & theirs).any(dim=1).double()
            nearest = distances.masked_fill(~theirs, torch.inf).amin(dim=1)
            covered[g, rows] = (nearest < balls[g, rows]).double()
    results = []
    for g in range(groups + 1):
        ours, theirs = own != g - 1, other != g - 1
        hit = hits[g, theirs]
        results.append(
            torch.stack(
                [
                    (hit > 0).double().mean(),
                    recalled[g, ours].mean(),
                    hit.mean() / k,
                    covered[g, ours].mean(),
                ]
            )
        )
    return torch.stack(results)


def _group(count: int, groups: int) -> Tensor:
    """Of each row which group it is in."""
    return torch.arange(count) % max(1, groups) if groups else torch.zeros(count).long()


def _radii(rows: Tensor, k: int, groups: int) -> Tensor:
    """The distance to the k-th nearest other row (1 + groups, N): among all, then without the g-th
    group."""
    group = _group(len(rows), groups)
    kept = min(len(rows), _SPARE * k + 8)
    parts = []
    for first in range(0, len(rows), ROWS):
        several = torch.arange(first, min(first + ROWS, len(rows)))
        distances = _distances(rows[several], rows)
        distances[torch.arange(len(several)), several] = torch.inf
        near, where = distances.topk(kept, dim=1, largest=False)
        radii = [near[:, k - 1]]
        for g in range(groups):
            there = (group[where] != g) & near.isfinite()
            place = (there.cumsum(dim=1) == k).int().argmax(dim=1, keepdim=True)
            radius = near.gather(1, place)[:, 0]
            short = there.sum(dim=1) < k
            if short.any():
                rest = distances[short].masked_fill((group == g)[None], torch.inf)
                radius[short] = rest.kthvalue(k, dim=1).values
            radii.append(radius)
        parts.append(torch.stack(radii))
    return torch.cat(parts, dim=1)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean ones (N, M)."""
    return torch.cdist(a, b)
