"""Mirrored images: which, and which never."""

from collections.abc import Iterator
from itertools import count, islice

import pytest
import torch

from tests.tiny import tiny_recipe
from unclip.data.captions import Report
from unclip.data.flips import NOT_MIRRORED, flipped
from unclip.data.sources import Sample, Stream, read, unseen
from unclip.evaluation.judge.training import LabelledScenes
from unclip.stages.recipe import Data, open_data

ARROW = torch.arange(3 * 2 * 4, dtype=torch.uint8).view(3, 2, 4)


class Arrows:
    """Images that are not their own mirror image; every third caption names a side."""

    endless = False

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Sample:
        return {"image": ARROW, "caption": self.caption(index)}

    def caption(self, index: int) -> str:
        return ("an arrow", "a Left arrow", "the rightmost arrow")[index % 3]

    def captions(self) -> Iterator[str]:
        return map(self.caption, range(30))

    def check(self, decode: bool = False) -> Report:
        return Report("arrows", images=30, usable=30, captions=30)

    def fingerprint(self) -> str:
        return "arrows"

    def unseen(self) -> "Arrows":
        return Arrows()


class ArrowStream(Arrows):
    def read(self, positions: Iterator[int]) -> Iterator[Sample]:
        return (self[position] for position in positions)


def mirrored(sample: Sample) -> bool:
    if torch.equal(sample["image"], ARROW):
        return False
    assert torch.equal(sample["image"], ARROW.flip(-1))
    return True


def test_every_second_image_anew_in_each_epoch_and_none_whose_caption_names_a_side() -> None:
    source = flipped(Arrows(), seed=3)
    assert not isinstance(source, Stream)
    numbers = range(0, 600, 3)
    of_plain = [mirrored(source[number]) for number in numbers]
    assert 70 < sum(of_plain) < 130
    assert of_plain == [mirrored(source[number]) for number in numbers]
    assert of_plain[:10] != of_plain[10:20]  # the next epoch
    assert of_plain != [mirrored(flipped(Arrows(), 4)[number]) for number in numbers]  # type: ignore[index]
    assert not any(mirrored(source[number]) for number in range(300) if number % 3)
    assert (len(source), source.caption(1), source.fingerprint()) == (
        30, "a Left arrow", "arrows flipped 3",
    )  # fmt: skip
    assert len(source.check().notes[NOT_MIRRORED]) == 20
    assert type(unseen(source)) is Arrows


def test_streams_are_mirrored_by_position() -> None:
    stream, source = flipped(ArrowStream(), seed=3), flipped(Arrows(), seed=3)
    assert isinstance(stream, Stream)
    given = read(stream, count(6, 3))
    assert [mirrored(one) for one in islice(given, 20)] == [
        mirrored(source[6 + 3 * number])  # type: ignore[index]
        for number in range(20)
    ]


def test_a_recipe_asks_for_it_in_training_alone() -> None:
    recipe = tiny_recipe("clip", data={"flip": True})
    plain = open_data(tiny_recipe("clip").data)
    assert "flipped" in open_data(recipe.data).fingerprint()
    assert open_data(recipe.data, "held-out").fingerprint() == (
        open_data(tiny_recipe("clip").data, "held-out").fingerprint()
    )
    assert "flipped" not in plain.fingerprint()
    with pytest.raises(ValueError, match=r"leave data\.flip out"):
        LabelledScenes.open(Data(source="emoji:shapes", flip=True))
