"""What a number is worth: 95 % intervals of rates, means, and statistics of many rows.

An interval says how far the number would move if the images were drawn again, in the same numbers
and from the same sources. It knows nothing of a bias that few images bring: metrics that have one
say so (`Estimate.note`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from unclip.checks import many, whole_number

Z: Final = 1.959964  # two-sided 95 % of the normal distribution
RESAMPLES: Final = 1000
_TAIL: Final = 0.025


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, `low` to `high`, and what limits it (`note`, "" if nothing).

    A bound is NaN where there are too few rows to say.
    """

    value: float
    low: float
    high: float
    note: str = ""

    @classmethod
    def of(cls, value: float, error: float, note: str = "", least: float = -math.inf) -> "Estimate":
        """From a standard error, by the normal distribution; the interval ends at `least`."""
        if math.isnan(error):
            return cls(value, math.nan, math.nan, note or "too few images for an interval")
        return cls(value, max(least, value - Z * error), max(least, value + Z * error), note)

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    def scaled(self, factor: float) -> "Estimate":
        """In another unit; `factor` is positive."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.note)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN: null stands in its place."""
        value, *interval = (
            x if math.isfinite(x) else None for x in (self.value, self.low, self.high)
        )
        return {"value": value, "interval": interval} | ({"note": self.note} if self.note else {})

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class Rate:
    """`right` of `total` cases."""

    right: int
    total: int

    @property
    def accuracy(self) -> float:
        """The fraction that is right; NaN where there was no case."""
        return self.right / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of Wilson (1927); (0, 1) where there was no case."""
        return wilson(self.right, self.total)

    def to_dict(self) -> dict[str, Any]:
        accuracy = self.accuracy if self.total else None
        return {
            "accuracy": accuracy,
            "right": self.right,
            "total": self.total,
            "interval": list(self.interval),
        }

    def __str__(self) -> str:
        if not self.total:
            return "no case"
        low, high = self.interval
        cases = "1 case" if self.total == 1 else f"{self.total} cases"
        return f"{self.accuracy:.1%} ({low:.1%} to {high:.1%}, {cases})"


def wilson(right: float, total: float) -> tuple[float, float]:
    """The 95 % interval of a rate of independent cases (Wilson 1927); (0, 1) where there is none.

    Unlike the normal one it is of use at 0 and at 1, and never leaves [0, 1].
    """
    if not total:
        return 0.0, 1.0
    n, p, z2 = total, right / total, Z * Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # Rounding must not leave the rate itself outside, at 0 and at 1 above all.
    return max(0.0, min(p, middle - half)) if p else 0.0, (
        min(1.0, max(p, middle + half)) if p < 1 else 1.0
    )


def mean(values: Tensor) -> Estimate:
    """The mean of independent values (N,), with Student's interval.

    Raises:
        ValueError: there is none, or one is not finite.
    """
    values = values.double()
    if not len(values) or not values.isfinite().all():
        raise ValueError(
            f"the mean of {many(len(values), 'values')} needs at least one, and finite ones only"
        )
    if len(values) == 1:
        return Estimate(float(values[0]), math.nan, math.nan, "one value has no interval")
    error = float(values.std()) / math.sqrt(len(values))
    return Estimate.of(float(values.mean()), error * student(len(values) - 1) / Z)


def student(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t, by Cornish and Fisher's series in 1 / `freedom`;
    within 1 % from three degrees of freedom on, and exact for one and two."""
    if freedom <= 2:
        return {1: 12.7062, 2: 4.30265}[freedom]
    z, v = Z, float(freedom)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v ** (power + 1) for power, term in enumerate(terms))


def bootstrap(
    statistic: Callable[[Tensor], float],
    count: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """A statistic of `count` independent rows, with the percentile interval of the bootstrap.

    Not for statistics of distances between rows (FID, KID, PRDC): rows drawn twice are at no
    distance from each other, which none of the data is.

    Args:
        statistic: the numbers of rows (K,), some of them perhaps several times → a number.
        resamples: how often the rows are drawn anew, with replacement.

    Raises:
        ValueError: there is no row, or fewer than 20 resamples.
    """
    whole_number(count, "the number of rows", 1)
    whole_number(resamples, "resamples", 20)
    generator = torch.Generator().manual_seed(seed)
    drawn = sorted(
        statistic(torch.randint(count, (count,), generator=generator)) for _ in range(resamples)
    )
    return Estimate(statistic(torch.arange(count)), *percentiles(drawn))


def percentiles(drawn: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of numbers, interpolated; NaN among them are left out."""
    known = sorted(x for x in drawn if not math.isnan(x))
    if not known:
        return math.nan, math.nan

    def at(fraction: float) -> float:
        place = fraction * (len(known) - 1)
        low = math.floor(place)
        high = min(low + 1, len(known) - 1)
        return known[low] + (known[high] - known[low]) * (place - low)

    return at(_TAIL), at(1 - _TAIL)


def jackknife(value: float, *influences: Tensor, note: str = "", least: float = -math.inf) -> (
    Estimate
):  # fmt: skip
    """A statistic of independent sets of rows, with the interval of its influences.

    Args:
        value: of all rows.
        influences: for each set (N,), by how much a row moves the statistic, times N: the
            derivative by the row's weight, or N - 1 times what leaving it out takes away. They
            need not be centred.
        least: the least value that is possible.
    """
    variance = sum(float(part.double().var()) / len(part) for part in influences)
    return Estimate.of(value, math.sqrt(variance), note, least)
