"""Ratings of images: of a table that people filled in, or of a taste that stands in for theirs.

The built-in world has no raters. `taste` is a function of what a scene holds that plays one, so
that the machinery of the aesthetic probe can be proven, and a guidance sweep drawn, without
anybody's data. It says nothing of beauty.

Shapes: N images of H × H pixels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from unclip.data.tables import read_numbers
from unclip.data.world.scene import Scene, WorldConfig
from unclip.data.world.world import World
from unclip.evaluation.features.extractor import Extractor, features_of, open_extractor
from unclip.evaluation.features.files import features_of_files
from unclip.evaluation.metrics.aesthetic import Fit, fit
from unclip.pixels import to_signed

WARM: Final = frozenset({"red", "orange", "yellow", "pink"})
RATING_KEYS: Final = ("rating", "score", "mean", "aesthetic")
_BATCH: Final = 64


@dataclass(frozen=True)
class Rated:
    """Images and their ratings.

    Attributes:
        files: of the images.
        ratings: in their order.
    """

    files: Sequence[Path]
    ratings: Sequence[float]


def taste(scene: Scene) -> float:
    """A rating from 1 to 10: warm colours, large things, a calm middle, and a painted background.

    2 + 3 · (share of objects that are red, orange, yellow or pink) + 2 · (mean extent of the
    objects, as a fraction of half the side) + 2 · (1 - distance of their mean place from the
    middle, in half diagonals) + 1 where the background is more than one colour.
    """
    things = scene.objects
    warm = sum(thing.colour in WARM for thing in things) / len(things)
    extent = min(1.0, 2 * sum(thing.extent for thing in things) / len(things))
    x = sum(thing.x for thing in things) / len(things) - 0.5
    y = sum(thing.y for thing in things) / len(things) - 0.5
    calm = 1 - min(1.0, math.hypot(x, y) / math.hypot(0.5, 0.5))
    return 2 + 3 * warm + 2 * extent + 2 * calm + (scene.background.kind != "flat")


def world_fit(extractor: Extractor, config: WorldConfig, n: int = 2000, seed: int = 0) -> Fit:
    """A probe of `taste` on `n` scenes of a world, at its size."""
    world = World(config)
    scenes = [world.scene(index) for index in range(n)]

    def batches() -> Iterator[Tensor]:
        for first in range(0, n, _BATCH):
            pixels = [torch.from_numpy(world.render(one)) for one in scenes[first : first + _BATCH]]
            yield to_signed(torch.stack(pixels).permute(0, 3, 1, 2))

    ratings = torch.tensor([taste(scene) for scene in scenes])
    return fit(features_of(extractor, batches()), ratings, extractor.hash, seed=seed)


def read_ratings(table: Path) -> Rated:
    """A CSV, JSON Lines or Parquet table whose rows name an image and its rating.

    Images lie in the table's folder, or below. The rating's column is called rating, score, mean or
    aesthetic; several rows of an image count as one, with their mean.

    Raises:
        ValueError: it cannot be read, or a row has no image or no number.
    """
    ratings: dict[str, list[float]] = {}
    for file, rating in read_numbers(table.parent, table.name, RATING_KEYS):
        ratings.setdefault(file, []).append(rating)
    if not ratings:
        raise ValueError(f"{table} has no rows")
    files = [table.parent / file for file in ratings]
    return Rated(files, [sum(of) / len(of) for of in ratings.values()])


def table_fit(name: str | Path, rated: Rated, processes: int = 1, device: str = "auto") -> Fit:
    """A probe of a table's ratings, of an extractor's features.

    Raises:
        ValueError: see `features_of_files` and `fit`.
    """
    extractor = open_extractor(name, device=device)
    features = features_of_files(name, rated.files, processes, device)
    return fit(features, torch.tensor(rated.ratings), extractor.hash)
