"""Mixtures: exact proportions, samples that follow from their numbers, every wrong name."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.data.test_folder import folder
from unclip.data.batches import Order, batches
from unclip.data.captions import ENDLESS
from unclip.data.mixture import Mixture
from unclip.data.registry import open_source
from unclip.data.sources import unseen


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Folders of 7 and 3 images, whose captions say which of them it is."""
    for name, count in (("a", 7), ("b", 3)):
        for text in folder(tmp_path / name, count).glob("*.txt"):
            text.write_text(f"{name} {text.stem}")
    return str(tmp_path / "a"), str(tmp_path / "b")


def opened(name: str, size: int = 16) -> Mixture:
    source = open_source(name, size=size)
    assert isinstance(source, Mixture)
    return source


def test_every_window_has_the_proportions(two: tuple[str, str]) -> None:
    mixture = opened(f"mix:0.7 {two[0]} + 0.3 {two[1]}")
    whose = [mixture.caption(number)[0] for number in range(200)]
    for start in range(100):
        for length in (10, 37, 100):
            count = whose[start : start + length].count("a")
            assert abs(count - 0.7 * length) < 1
    assert [mixture.caption(number) for number in (5, 40, 5)] == [
        mixture[5]["caption"], mixture[40]["caption"], mixture.caption(5),
    ]  # fmt: skip
    # One turn through a part shows each of its images once.
    of_a = [mixture.caption(n) for n in range(200) if whose[n] == "a"]
    for epoch in range(20):
        assert len(set(of_a[7 * epoch : 7 * epoch + 7])) == 7


def test_batches_resume_and_are_the_same_for_any_number_of_workers(two: tuple[str, str]) -> None:
    mixture = opened(f"mix:{two[0]} + 2 emoji:shapes", 32)
    assert len(mixture) == ENDLESS
    order = Order.of(mixture)
    whole = list(islice(batches(mixture, order, 4), 6))
    late = batches(mixture, order, 4, start_step=3, num_workers=2)
    for one, other in zip(whole[3:], islice(late, 3), strict=True):
        assert torch.equal(one["images"], other["images"])
        assert one["captions"] == other["captions"]
    late.close()


def test_what_is_held_out_is_that_of_the_parts(two: tuple[str, str]) -> None:
    name = f"mix:{two[0]} + {two[1]}"
    train = open_source(name, size=16, held_out=0.5)
    held_out = unseen(train)
    assert isinstance(held_out, Mixture)
    seen = {train.caption(number) for number in range(100)}  # type: ignore[union-attr]
    other = {held_out.caption(number) for number in range(100)}
    assert not seen & other
    assert len(seen | other) == 10
    report = str(train.check())
    assert report.count("50 %: ") == 2
    assert "held out: " in report
    split = open_source(name, size=16, held_out=0.5, split="held-out")
    assert {split.caption(number) for number in range(100)} == other  # type: ignore[union-attr]
    assert unseen(open_source(name, size=16)) is None


def test_fingerprints(two: tuple[str, str]) -> None:
    one = opened(f"mix:1 {two[0]} + 3 {two[1]}").fingerprint()
    assert opened(f"mix:0.25 {two[0]}  +  75e-2 {two[1]}").fingerprint() == one
    assert opened(f"mix:1 {two[0]} + 2 {two[1]}").fingerprint() != one


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mix:", "a part without a name"),
        ("mix:3", "a part without a name"),
        ("mix:a + + b", "a part without a name"),
        ("mix:0 a + b", "must be greater than 0"),
        ("mix:-1 a", "must be greater than 0"),
        ("mix:mix:a + b", "a mixture in it"),
        ("mix:2 nowhere + emoji", "the data folder nowhere does not exist"),
        ("mix:1 emoji:shapes + 0.123456789 emoji:shapes", "round them"),
    ],
)
def test_wrong_names_are_one_sentence(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        open_source(name, size=32)
