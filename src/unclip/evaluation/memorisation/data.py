"""The images that a model was trained on, those that it was not, and copies of the former.

Where nothing is held out, a part of the training images stands for unseen ones: each is held
against the others, so that distances are those of images that the search has not seen. Losses say
nothing then.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor

from unclip.batch import Batch
from unclip.checks import many, printable
from unclip.data.batches import batch_of
from unclip.data.captions import ENDLESS
from unclip.data.held_out import FEWEST, fraction_of
from unclip.data.registry import format_of, open_source
from unclip.data.shuffled import shuffled
from unclip.data.sources import Source, Stream, length, read
from unclip.evaluation.memorisation.planted import plant
from unclip.evaluation.studies.captioned import named
from unclip.pixels import to_signed
from unclip.storage.folder import ModelFolder

PLANTED: Final = 400
"""Copies of each kind, half of which set the threshold."""
_BATCH: Final = 64
_STEP: Final = 1_000_003  # between the seeds of batches


@dataclass(frozen=True)
class Asked:
    """Which data, as the command line names it.

    Attributes:
        data: what the model was trained on; what its folder notes, if left out.
        held_out: data that it was not trained on; what its training held out, if left out.
        world: scenes of the built-in world, where the model does not note its own.
        template: of captions of images that only a class is known of.
        seed: of which images are taken.
        train, unseen: how many at most.
    """

    data: str | None
    held_out: str | None
    world: Any
    template: str
    seed: int
    train: int
    unseen: int


@dataclass(frozen=True)
class Compared:
    """Training images and unseen ones, at one size.

    Attributes:
        train, unseen: sources in an order in which the first samples stand for all.
        train_count, unseen_count: how many are taken of each.
        own: whether the unseen ones are training images too, under the same numbers.
        name: of the training data.
        said: what stands for unseen images, in words.
    """

    train: Source | Stream
    unseen: Source | Stream
    train_count: int
    unseen_count: int
    own: bool
    name: str
    said: str

    @classmethod
    def open(cls, model: ModelFolder, asked: Asked, size: int) -> "Compared":
        """Open the data, with images of `size` pixels a side.

        Raises:
            ValueError: the model does not say what it was trained on, and nothing is named; see
                `open_source`; there are too few images.
        """
        name, options = named(model, asked.data)
        kind = format_of(name)
        fraction = fraction_of(model) if kind.holds_out == "fraction" else 0.0
        options = {"emoji": asked.world} | dict(options)

        def opened(data: str, split: str, fraction: float) -> Source | Stream:
            side = max(size, format_of(data).smallest)
            source = open_source(
                data, size=side, split=split, held_out=fraction, options=options,
                crop="centre", template=asked.template,
            )  # fmt: skip
            return shuffled(source, asked.seed)

        holds = bool(fraction) or kind.holds_out == "itself"
        train = opened(name, "train" if holds else "all", fraction)
        unseen, said = None, ""
        if asked.held_out is not None:
            unseen, said = opened(asked.held_out, "all", 0.0), printable(asked.held_out)
        elif holds:
            unseen, said = opened(name, "held-out", fraction), "what training held out"
            if length(unseen) < FEWEST:
                unseen = None
        own = unseen is None
        if unseen is None:
            unseen, said = train, "training images, each beside the others: nothing was held out"
        count = min(asked.unseen, length(unseen))
        if count < FEWEST:
            raise ValueError(
                f"copies are told beside {FEWEST} images or more that training did not see, and "
                f"there are {many(count, 'images')}: give other data with --held-out"
            )
        return cls(
            train, unseen, min(asked.train, length(train)), count, own, printable(name), said
        )

    @property
    def numbers(self) -> Tensor:
        """(N,): see `copies.Sides.own`."""
        found = torch.arange(self.unseen_count)
        return found if self.own else torch.full_like(found, -1)

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        of = length(self.train)
        return {
            "training_images": self.train_count,
            **({"of": of} if of < ENDLESS else {}),
            "unseen_images": self.unseen_count,
            "unseen": self.said,
        }


def batches(source: Source | Stream, count: int) -> Iterator[Batch]:
    """The first `count` samples: images (n, 3, H, H) in [-1, 1] and captions."""
    samples = read(source, range(count))
    while part := list(islice(samples, _BATCH)):
        batch = batch_of(part)
        yield batch | {"images": to_signed(batch["images"])}


def images(source: Source | Stream, count: int) -> Iterator[Tensor]:
    """Their images alone."""
    return (batch["images"] for batch in batches(source, count))


def planted(compared: Compared, kind: str, seed: int) -> Iterator[Tensor]:
    """Batches of `PLANTED` copies of training images; where there are fewer, of the same ones
    again, cropped and noised otherwise."""
    made, number = 0, 0
    while made < PLANTED:
        for batch in images(compared.train, min(compared.train_count, PLANTED - made)):
            yield plant(batch, kind, seed + _STEP * number)
            made, number = made + len(batch), number + 1
