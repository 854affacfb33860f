"""Where images lie, so that copies of an image are close to it: in pixels, and in features.

**Pixels.** An image of 16 × 16 pixels is laid over each training image, mirrored too, and over
crops of it: first coarsely (8 × 8 pixels, crops of a fixed grid), then over the best ones again,
while the crop's side and place are refined. So a crop that nobody knows the place of lies at next
to no distance from what it was cut from.

**Features.** Those of any extractor, brought to unit length, of the image and of its mirror image.

Distances are Euclidean. Shapes: Q queries, N images of a bank, F forms that each is compared in, D
width of features.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.evaluation.features.extractor import Extractor
from unclip.evaluation.features.kept import kept_features

COARSE, FINE = 8, 16
"""Pixels a side that images are compared at."""
_SCALES: Final = (0.95, 0.87, 0.82)  # sides of the crops that are tried first
_LEAST: Final = 0.75  # side of the smallest crop
_BEST: Final = 4  # training images whose crops are refined
_STEPS: Final = (0.04, 0.08, 0.08)  # of side and place, first
_ROUNDS, _FINER = 6, 1.5  # how often steps are taken, and how much smaller they become
_CHUNK: Final = 2048  # images of a bank that are compared at once
_ROWS: Final = 1024  # crops that are compared at once

Batches = Iterable[Tensor]
"""Images (n, 3, H, H) in [-1, 1]."""
Progress = Callable[[int], Any]


@dataclass(frozen=True)
class Looked:
    """Images as a space sees them.

    Attributes:
        forms: (2, N, D), the images and their mirror images.
        small: (N, 3, 2 · FINE, 2 · FINE), where crops are tried.
    """

    forms: Tensor
    small: Tensor | None = None

    def __len__(self) -> int:
        return self.forms.shape[1]

    @property
    def plain(self) -> Tensor:
        """(N, D)"""
        return self.forms[0]

    def __getitem__(self, rows: Any) -> "Looked":
        small = None if self.small is None else self.small[rows]
        return Looked(self.forms[:, rows], small)

    @staticmethod
    def joined(parts: "list[Looked]") -> "Looked":
        small = [part.small for part in parts if part.small is not None]
        return Looked(
            torch.cat([part.forms for part in parts], 1), torch.cat(small) if small else None
        )


@dataclass(frozen=True)
class Nearest:
    """What is closest in a bank: distances (Q, K) ascending, numbers (Q, K) of images, and forms
    (Q, K), 2 · form of the bank's image + (1 where the query was mirrored)."""

    distances: Tensor
    numbers: Tensor
    forms: Tensor


class Space(Protocol):
    """A way to compare images.

    Attributes:
        name, hash: as results say it.
    """

    @property
    def name(self) -> str: ...
    @property
    def hash(self) -> str: ...

    def look(self, batches: Batches, progress: Progress) -> Looked:
        """What is kept of images."""
        ...

    def nearest(self, queries: Looked, bank: Looked, own: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (Q,) to the closest image of the bank under any alteration, and its numbers.

        Args:
            own: (Q,) number of the bank's image that a query is itself, passed over; -1 for none.
        """
        ...

    def neighbours(self, queries: Looked, bank: Looked, own: Tensor, k: int) -> Tensor:
        """Mean distances (Q,) to the `k` closest images of the bank, in the unit of `nearest`."""
        ...


class Features:
    """The space of an extractor's features.

    Args:
        kept: folder where features are kept.
    """

    def __init__(self, extractor: Extractor, kept: Path) -> None:
        self.extractor, self._kept = extractor, kept
        self.name, self.hash = extractor.name, extractor.hash

    def look(self, batches: Batches, progress: Progress) -> Looked:
        def both() -> Iterator[Tensor]:
            for images in batches:
                yield torch.cat([images, images.flip(-1)])
                counts.append(len(images))

        counts: list[int] = []
        found = F.normalize(
            kept_features(self.extractor, both(), self._kept, lambda n: progress(n // 2)), dim=-1
        )
        parts = torch.split(found, [count for count in counts for _ in range(2)])
        return Looked(torch.stack([torch.cat(parts[0::2]), torch.cat(parts[1::2])]))

    def nearest(self, queries: Looked, bank: Looked, own: Tensor) -> tuple[Tensor, Tensor]:
        found = search(queries.forms, _plainly(bank), 1, own)
        return found.distances[:, 0], found.numbers[:, 0]

    def neighbours(self, queries: Looked, bank: Looked, own: Tensor, k: int) -> Tensor:
        return search(queries.forms, _plainly(bank), k, own).distances.mean(dim=1)


class Pixels:
    """The space of small images, under crops."""

    name = "pixels"
    hash = f"{FINE} px"

    def __init__(self) -> None:
        self._places = torch.tensor(_places())  # (F, 3)

    def look(self, batches: Batches, progress: Progress) -> Looked:
        small = []
        for images in batches:
            side = (2 * FINE, 2 * FINE)
            small.append(F.interpolate(images, side, mode="bilinear", antialias=True))
            progress(len(images))
        whole = torch.cat(small)
        forms = [F.avg_pool2d(one, 2).flatten(1) for one in (whole, whole.flip(-1))]
        return Looked(torch.stack(forms), whole)

    def nearest(self, queries: Looked, bank: Looked, own: Tensor) -> tuple[Tensor, Tensor]:
        assert bank.small is not None
        found = search(_coarse(queries), self._crops(bank.small), min(_BEST, len(bank)), own)
        best = found.distances.new_full(found.distances.shape, torch.inf)
        images = queries.forms.reshape(2, -1, 3, FINE, FINE)
        for column in range(best.shape[1]):
            numbers, forms = found.numbers[:, column], found.forms[:, column]
            for first in range(0, len(numbers), _ROWS):
                rows = slice(first, first + _ROWS)
                mirrored = (forms[rows] % 2)[:, None, None, None] == 1
                wanted = torch.where(mirrored, images[1, rows], images[0, rows])
                crops = self._places[forms[rows] // 2]
                best[rows, column] = _refined(wanted, bank.small[numbers[rows]], crops)
        best = best.masked_fill(found.distances.isinf(), torch.inf)
        closest = best.min(dim=1, keepdim=True)
        return closest.values[:, 0], found.numbers.gather(1, closest.indices)[:, 0]

    def neighbours(self, queries: Looked, bank: Looked, own: Tensor, k: int) -> Tensor:
        assert bank.small is not None
        found = search(_coarse(queries), self._crops(bank.small), k, own)
        return found.distances.mean(dim=1) * (FINE / COARSE)

    def _crops(self, small: Tensor) -> Iterator[Tensor]:
        """Chunks (F, n, D) of a bank, at the coarse size."""
        for first in range(0, len(small), _CHUNK):
            part = small[first : first + _CHUNK]
            yield torch.stack(
                [_cut(part, place.expand(len(part), 3), COARSE) for place in self._places]
            ).flatten(2)


def search(queries: Tensor, bank: Iterable[Tensor], k: int, own: Tensor) -> Nearest:
    """The `k` closest images of a bank, in whichever forms are closest.

    Args:
        queries: (2, Q, D).
        bank: chunks (F, n, D) of the bank's images, in order.
        own: (Q,) number of the bank's image that a query is itself, passed over; -1 for none.
    """
    count = queries.shape[1]
    distances = queries.new_full((count, 0), torch.inf)
    numbers = forms = torch.zeros(count, 0, dtype=torch.long)
    rows, first = torch.arange(count), 0
    for chunk in bank:
        best = queries.new_full((count, chunk.shape[1]), torch.inf)
        form = torch.zeros(best.shape, dtype=torch.long)
        for (f, images), (mirrored, asked) in product(enumerate(chunk), enumerate(queries)):
            apart = torch.cdist(asked, images)
            closer = apart < best
            best[closer] = apart[closer]
            form[closer] = 2 * f + mirrored
        here = (own >= first) & (own < first + chunk.shape[1])
        best[rows[here], own[here] - first] = torch.inf
        there = torch.arange(first, first + chunk.shape[1]).expand(count, -1)
        distances = torch.cat([distances, best], dim=1)
        distances, order = distances.topk(min(k, distances.shape[1]), largest=False)
        numbers = torch.cat([numbers, there], dim=1).gather(1, order)
        forms = torch.cat([forms, form], dim=1).gather(1, order)
        first += chunk.shape[1]
    return Nearest(distances, numbers, forms)


def _plainly(bank: Looked) -> Iterator[Tensor]:
    """Chunks (1, n, D) of a bank's images as they are."""
    return iter(torch.split(bank.forms[:1], _CHUNK, dim=1))


def _coarse(looked: Looked) -> Tensor:
    """(2, N, D) at the coarse size."""
    small = looked.forms.reshape(2, -1, 3, FINE, FINE)
    return torch.stack([F.avg_pool2d(one, FINE // COARSE).flatten(1) for one in small])


def _places() -> list[tuple[float, float, float]]:
    """Crops that are tried first: side, and the centre's place in [-1, 1] of the image."""
    crops = [
        (side, x * (1 - side), y * (1 - side))
        for side in _SCALES
        for x, y in product((-1, 0, 1), repeat=2)
    ]
    return [(1.0, 0.0, 0.0), *crops]


def _cut(small: Tensor, crops: Tensor, size: int) -> Tensor:
    """Crops (N, 3, size, size) of as many images.

    Args:
        small: (N, 3, 2 · FINE, 2 · FINE).
        crops: (N, 3) of side and centre, see `_places`.
    """
    points = 2 * FINE
    axis = (torch.arange(points) + 0.5) / points * 2 - 1
    x, y = (crops[:, :1] * axis + crops[:, k : k + 1] for k in (1, 2))  # (N, points)
    grid = torch.stack(
        [x[:, None, :].expand(-1, points, -1), y[:, :, None].expand(-1, -1, points)], dim=-1
    )
    found = F.grid_sample(small, grid, align_corners=False, padding_mode="border")
    pooled: Tensor = F.avg_pool2d(found, points // size)
    return pooled


def _refined(wanted: Tensor, small: Tensor, crops: Tensor) -> Tensor:
    """Distances (N,) to the crops that suit best, from those (N, 3) on: each of side and place is
    moved by a step where that is closer, and the steps become smaller."""

    def apart(crops: Tensor) -> Tensor:
        found: Tensor = (_cut(small, crops, FINE) - wanted).flatten(1).norm(dim=1)
        return found

    best, steps = apart(crops), torch.tensor(_STEPS)
    moves = [*torch.eye(3), *-torch.eye(3)]
    for _ in range(_ROUNDS):
        for move in moves:
            side = (crops[:, :1] + move[0] * steps[0]).clamp(_LEAST, 1)
            room = 1 - side
            place = torch.minimum(torch.maximum(crops[:, 1:] + move[1:] * steps[1:], -room), room)
            moved = torch.cat([side, place], dim=1)
            distance = apart(moved)
            closer = distance < best
            best = torch.where(closer, distance, best)
            crops = torch.where(closer[:, None], moved, crops)
        steps = steps / _FINER
    return best
