"""The recipe's data: opened, checked, and cut into this process's parts of the batches."""

import contextlib
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from unclip.batch import Batch
from unclip.checks import many, shown
from unclip.data.batches import Order, batches
from unclip.data.sources import Source, Stream
from unclip.stages.base import Stage
from unclip.stages.clip import ClipStage
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.recipe import Recipe, Training
from unclip.training.parallel import Parallel
from unclip.training.validation import Validation

S = TypeVar("S")
_COUNTED = 1000  # captions of the built-in world that are looked at for their length


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from.

    Args:
        batches: first step → this process's parts of the batches, `accumulation` parts a step.
        example: captioned images that previews are made for, if there are to be any.
        fingerprint: of the data, and of a teacher; a resumed run must share it.
        images: how many different ones there are; 0 where they have no end.
        validation: what the run is measured on, if it is.
    """

    batches: Callable[[int], Generator[Batch, None, None]]
    example: Batch | None = None
    fingerprint: str = ""
    images: int = 0
    validation: Validation | None = None

    def repeats(self, batch_size: int) -> str:
        """What to say of a batch that is larger than the data; nothing of another."""
        if not 0 < self.images < batch_size:
            return ""
        times = f"{batch_size / self.images:.3g}"
        return f"  repeated: a step shows each of {many(self.images, 'images')} {times} times"


def batches_of(
    source: Source | Stream, recipe: Recipe[S], first: int, parallel: Parallel | None = None
) -> Generator[Batch, None, None]:
    """Parts of the batches from part `first` on, `accumulation` of them a step: whole ones, or what
    this process has of them."""
    size = recipe.training.batch_size // recipe.training.accumulation
    order = Order.of(source, recipe.training.seed)
    # More than a few for each core only cost memory; batches are the same for any number.
    rank, world_size = (parallel.rank, parallel.world_size) if parallel else (0, 1)
    workers = min(recipe.data.workers, 4 * (os.cpu_count() or 1))
    numbered = recipe.training.log_samples
    return batches(source, order, size, first, rank, world_size, workers, numbered)


def check_division(training: Training, processes: int) -> None:
    """Refuse a batch that processes cannot share: each gets as many rows of each of its parts.

    Raises:
        ValueError: with the numbers of processes, and the batches, that go together.
    """
    size, parts = training.batch_size, training.accumulation
    rows = size // parts
    if rows % processes == 0:
        return
    able = [str(number) for number in range(1, min(rows, 2 * processes) + 1) if rows % number == 0]
    unit = processes * parts
    others = [str(other) for other in (size // unit * unit, (size // unit + 1) * unit) if other]
    what = f"training.batch_size {size}" + (f" in {parts} parts" if parts > 1 else "")
    raise ValueError(
        f"{what} does not split evenly over {processes} processes; take "
        f"{' or '.join(able[-8:])} of them, or a batch_size of {' or '.join(others)}"
    )


def first_images(source: Source | Stream, recipe: Recipe[S]) -> Batch:
    """At most 8 captioned images for previews, alone and without workers: a whole batch can take
    long to draw."""
    size = min(8, recipe.training.batch_size // recipe.training.accumulation)
    with contextlib.closing(batches(source, Order.of(source, recipe.training.seed), size)) as few:
        return dict(next(few))


def say_what_is_unknown(stage: Stage, source: Source | Stream) -> None:
    """Captions of words that a stage's CLIP, which does not learn any more, has never seen."""
    clip = getattr(stage, "clip", None)
    if not isinstance(clip, FrozenCLIP) or clip.tokenizer.vocabulary is None:
        return
    read = list(islice(source.captions(), _COUNTED if source.endless else 20 * _COUNTED))
    _, count, words = clip.tokenizer.vocabulary.unknown_in(read)
    if count:
        often = ", ".join(map(shown, words))
        print(
            f"  unknown: {count:,} of {many(len(read), 'captions')} have words that this model's "
            f"CLIP was not trained with ({often}, …) and spells; train clip on them first: "
            "unclip train clip, with --training.init to start from another model's",
            flush=True,
        )


def say_what_is_cut(stage: Stage, source: Source | Stream, fresh: bool) -> None:
    """Captions of which the stage reads only the beginning, the last lines of the data's report."""
    reader = stage if isinstance(stage, ClipStage) else getattr(stage, "clip", None)
    if not isinstance(reader, ClipStage | FrozenCLIP):
        return
    read = list(islice(source.captions(), _COUNTED if source.endless else 20 * _COUNTED))
    cut, length = reader.tokenizer.too_long(read), reader.tokenizer.context_length
    if cut:
        larger = "a larger" if fresh else "a CLIP that is trained anew with a larger"
        print(
            f"  cut: {cut:,} of {many(len(read), 'captions')}, to the {length} tokens that CLIP "
            f"reads; {larger} --network.context-length reads more",
            flush=True,
        )
