"""Which generated images are copies of training images, and how sure that is.

An image's **nearness** is its distance from the closest training image, mirrored and cropped ones
too, over its mean distance from the 20 closest of images that training did not see: far below 1
where a training image is much closer than chance has it, whatever kind of image it is (a plain
background is close to everything). Training images that come twice do not change it.

The **threshold** is calibrated on planted copies of training images (exact, flipped, cropped,
noised): it lies so that 99.5 % of each kind are expected below it, by the order statistics of one
half of them. The other half says how many are found. How many of the unseen images are below it
too, each held against the others, is the rate of false alarms; unseen images that really are copies
of training images count as such.

**Apart** is the median distance of generated images from the closest training image, over that of
unseen images: 1 for a model that only knows what images are like, below it where it leans on its
training images. **AuthPct** (Alaa et al., arXiv 2102.08921) is the share of images that lie further
from their closest training image than that one lies from the closest other one.

Shapes: N images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from unclip.checks import many
from unclip.evaluation.intervals import RESAMPLES, Estimate, Rate, percentiles
from unclip.evaluation.memorisation.spaces import Looked, Space

NEIGHBOURS: Final = 20
FEWEST: Final = 8
"""Images that training did not see, below which nothing can be said."""
_FOUND: Final = 0.995  # of each kind of copies, that the threshold is to find
_CHUNK: Final = 2048


@dataclass(frozen=True)
class Sides:
    """What is compared, as one space sees it.

    Attributes:
        train: training images.
        unseen: images that training did not see.
        own: (N,) the numbers that `unseen` has among the training images, -1 where it is not there.
        made: generated images.
        planted: copies of training images, by kind.
    """

    train: Looked
    unseen: Looked
    own: Tensor
    made: Looked
    planted: Mapping[str, Looked]


@dataclass(frozen=True)
class Copies:
    """What one space says.

    Attributes:
        nearness: of each generated image (N,), and of unseen ones.
        nearest: numbers (N,) of the closest training images.
        threshold: of nearness.
        copies: generated images below it.
        false: unseen images below it.
        found: planted copies below it, of the half that did not set it, by kind.
        apart: see the top of this file.
        authentic: AuthPct of the generated images, and of unseen ones.
    """

    nearness: Tensor
    nearness_unseen: Tensor
    nearest: Tensor
    threshold: float
    copies: Rate
    false: Rate
    found: Mapping[str, Rate]
    apart: Estimate
    authentic: Rate
    authentic_unseen: Rate


def find_copies(space: Space, sides: Sides, seed: int = 0) -> Copies:
    """Look for copies in one space.

    Args:
        seed: of the bootstrap.

    Raises:
        ValueError: there are too few images that training did not see.
    """
    if len(sides.unseen) < FEWEST:
        raise ValueError(
            f"there are {many(len(sides.unseen), 'images')} that training did not see, and copies "
            f"can only be told beside {FEWEST} or more: give other data with --held-out"
        )
    made, unseen, *planted = _nearness(space, sides)
    threshold = max(_order_statistic(one.nearness[: _half(one)]) for one in planted)
    found = {
        kind: _below(one.nearness[_half(one) :], threshold)
        for kind, one in zip(sides.planted, planted, strict=True)
    }
    return Copies(
        made.nearness,
        unseen.nearness,
        made.numbers,
        threshold,
        _below(made.nearness, threshold),
        _below(unseen.nearness, threshold),
        found,
        _ratio(made.distances, unseen.distances, seed),
        _authentic(sides.made, sides.train, torch.full((len(sides.made),), -1)),
        _authentic(sides.unseen, sides.train, sides.own),
    )


@dataclass(frozen=True)
class _Near:
    nearness: Tensor
    distances: Tensor
    numbers: Tensor


def _nearness(space: Space, sides: Sides) -> list[_Near]:
    """Of the generated images, the unseen ones, and planted copies of each kind, in one search."""
    groups = [sides.made, sides.unseen, *sides.planted.values()]
    counts = [len(group) for group in groups]
    queries = Looked.joined(groups)
    among_train = torch.full((len(queries),), -1)
    among_unseen = among_train.clone()
    themselves = slice(counts[0], counts[0] + counts[1])
    among_train[themselves] = sides.own
    among_unseen[themselves] = torch.arange(counts[1])
    distances, numbers = space.nearest(queries, sides.train, among_train)
    k = min(NEIGHBOURS, len(sides.unseen) - 1)
    around = space.neighbours(queries, sides.unseen, among_unseen, k).clamp(min=1e-6)
    columns = (torch.split(one, counts) for one in (distances / around, distances, numbers))
    return [_Near(*part) for part in zip(*columns, strict=True)]


def _half(one: _Near) -> int:
    return len(one.nearness) // 2


def _order_statistic(values: Tensor) -> float:
    """The value that one more of these is below with a probability of 99.5 %, or the largest."""
    place = min(math.ceil(_FOUND * (len(values) + 1)), len(values))
    return float(values.sort().values[place - 1])


def _below(values: Tensor, threshold: float) -> Rate:
    return Rate(int((values <= threshold).sum()), len(values))


def _ratio(made: Tensor, unseen: Tensor, seed: int) -> Estimate:
    """The ratio of two medians, with the percentile interval of the bootstrap."""
    generator = torch.Generator().manual_seed(seed % 2**63)

    def medians(values: Tensor) -> Tensor:
        rows = torch.randint(len(values), (RESAMPLES, len(values)), generator=generator)
        return values[rows].quantile(0.5, dim=1)

    drawn = (medians(made) / medians(unseen).clamp(min=1e-6)).tolist()
    value = float(made.quantile(0.5)) / max(float(unseen.quantile(0.5)), 1e-6)
    return Estimate(value, *percentiles(drawn))


def _authentic(images: Looked, train: Looked, own: Tensor) -> Rate:
    """How many are further from their closest training image than it from the closest other one."""
    if len(train) < 2:
        return Rate(0, 0)
    apart, closest = _closest(images.plain, train.plain, own)
    others, _ = _closest(train.plain[closest], train.plain, closest)
    return Rate(int((apart > others).sum()), len(images))


def _closest(queries: Tensor, bank: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (Q,) and numbers (Q,) of the closest rows of a bank, but for one's own."""
    distances, numbers = [], []
    for first in range(0, len(queries), _CHUNK):
        apart = torch.cdist(queries[first : first + _CHUNK], bank)
        mine = own[first : first + _CHUNK]
        rows = torch.arange(len(apart))[mine >= 0]
        apart[rows, mine[mine >= 0]] = torch.inf
        least = apart.min(dim=1)
        distances.append(least.values)
        numbers.append(least.indices)
    return torch.cat(distances), torch.cat(numbers)


def closest_first(found: Sequence[Copies]) -> list[int]:
    """Numbers of the generated images, those first that some space finds closest to a training
    image beside its threshold."""
    relative = torch.stack([one.nearness / max(one.threshold, 1e-6) for one in found])
    order: list[int] = relative.amin(dim=0).argsort(stable=True).tolist()
    return order
