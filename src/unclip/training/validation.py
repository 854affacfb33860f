"""Held-out images that a run is measured on while it trains, and how often.

They are fixed, and so are noise and timesteps, so that two measurements differ by their weights
alone. Beside them as many of the images that are learned from are measured in the same way: the
difference is what over-fitting looks like.
"""

import math
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from unclip.batch import Batch
from unclip.data.batches import Order, batch_of
from unclip.data.captions import ENDLESS
from unclip.data.held_out import FEWEST
from unclip.data.registry import format_of
from unclip.data.sources import Source, Stream, length, read, unseen
from unclip.stages.recipe import Data, Recipe, Training
from unclip.training.parallel import Parallel

S = TypeVar("S")
_MOST = 256  # images that are measured, each with noise of its own
_BYTES = 2**26  # of all their pixels, which are kept in memory
_SHARE = 0.04  # of the time: a step computes forward and backward, thrice what a measurement does
_AN_IMAGE = _SHARE * 3 / 2  # held-out images for each one of training, and as many that were seen


@dataclass(frozen=True)
class Validation:
    """What a run is measured on.

    Args:
        every: steps between two measurements; one is made at the end as well.
        held_out, seen: this process's parts of batches, as many in every process.
        images: how many different held-out ones there are in all processes.
        measured_on: changes where losses of before cannot be compared.
    """

    every: int
    held_out: tuple[Batch, ...]
    seen: tuple[Batch, ...]
    images: int
    measured_on: str

    def is_due(self, step: int, steps: int) -> bool:
        return step % self.every == 0 or step == steps


def interval(training: Training) -> int:
    """Steps between two measurements: `validate_every` or, if that is left out, so many that they
    take about 4 % of the time, 10 to 50 times a run. 0 for none, as in runs of a few steps."""
    if training.validate_every is not None:
        return training.validate_every
    steps, batch = training.steps, training.batch_size
    every = min(max(math.ceil(_MOST / (_AN_IMAGE * batch)), steps // 50), steps // 10)
    return every if _AN_IMAGE * batch * every >= FEWEST else 0


def validates(recipe: Recipe[Any]) -> bool:
    """Whether a run of this recipe is to be measured, if its data holds out enough."""
    data = recipe.data
    itself = not data.by_fraction and format_of(data.source).holds_out == "itself"
    return (itself or data.fraction > 0) and interval(recipe.training) > 0


def validation_of(
    source: Source | Stream, recipe: Recipe[S], parallel: Parallel
) -> Validation | None:
    """The images that a run with this training data is measured on; None where it is not.

    Raises:
        ValueError: they cannot be read.
    """
    every = interval(recipe.training)
    other = unseen(source) if every else None
    if other is None or length(other) < FEWEST:
        return None
    training, count = recipe.training, _count(recipe.training, recipe.data, every)
    different = min(count, length(other))
    parts = math.ceil(different / (training.batch_size // training.accumulation))
    size = different // parts // parallel.world_size * parallel.world_size
    if not size:
        return None
    rounds = max(1, count // (parts * size))
    shape = (parts, size, rounds)
    held_out, seen = (_parts(one, shape, training.seed, parallel) for one in (other, source))
    on = f"{other.fingerprint()} {shape} {training.seed} {parallel.world_size}"
    return Validation(every, held_out, seen, parts * size, on)


def _count(training: Training, data: Data, every: int) -> int:
    """How many images a measurement may take."""
    affordable = int(_AN_IMAGE * training.batch_size * every)
    return max(FEWEST, min(_MOST, affordable, _BYTES // (3 * data.size**2)))


def _parts(
    source: Source | Stream, shape: tuple[int, int, int], seed: int, parallel: Parallel
) -> tuple[Batch, ...]:
    """This process's share of each batch. A batch has different images, as CLIP needs them; where
    there are few, further rounds show them again, with other noise and captions."""
    parts, size, rounds = shape
    share, order = size // parallel.world_size, Order.of(source, seed)
    firsts = [
        turn * length(source) + number * size + parallel.rank * share
        for turn in range(rounds)
        for number in range(parts)
    ]
    samples = read(source, (order(first + i) for first in firsts for i in range(share)))
    return tuple(batch_of(list(islice(samples, share))) for _ in firsts)


def said(validation: Validation | None, source: Source | Stream, recipe: Recipe[Any]) -> str:
    """What a run says of it, a line of the data's report."""
    data, other = recipe.data, unseen(source)
    if validation is not None:
        whole = length(other) if other is not None else 0
        of_all = f" of {whole:,}" if validation.images < whole < ENDLESS else ""
        return (
            f"  validated: on {validation.images:,}{of_all} held-out images, every "
            f"{validation.every:,} steps; the best weights are published"
        )
    there = f"{length(source):,} images" if not source.endless else "these scenes"
    if other is not None and interval(recipe.training):
        return f"  not validated: {length(other):,} held-out images say too little"
    if data.by_fraction and other is None:
        why = (
            f"{there} are too few for {data.fraction:.3g} of them"
            if data.fraction
            else ("data.held_out is 0")
        )
        return f"  held out: none, as {why}; over-fitting will not be seen"
    return ""
