"""Copies are found, and unseen images are not taken for them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.tiny import scenes
from unclip.evaluation.memorisation.copies import Sides, closest_first, find_copies
from unclip.evaluation.memorisation.planted import KINDS, plant
from unclip.evaluation.memorisation.spaces import Looked, Pixels

SPACE = Pixels()


def looked(images: Tensor) -> Looked:
    return SPACE.look(images.split(50), lambda count: None)


@pytest.fixture(scope="module")
def sides() -> Sides:
    """60 training images, 60 others, and copies; what is "made" is 20 more others."""
    images = scenes(140)["images"]
    train, unseen, made = images[:60], images[60:120], images[120:]
    planted = {kind: looked(plant(train, kind, 1)) for kind in KINDS}
    own = torch.full((60,), -1)
    return Sides(looked(train), looked(unseen), own, looked(made), planted)


def test_a_model_that_copies(sides: Sides) -> None:
    copied = plant(scenes(140)["images"][:20], "noised", 9)
    copied[::2] = copied[::2].flip(-1)
    found = find_copies(SPACE, replace(sides, made=looked(copied)))
    assert found.copies.accuracy >= 0.9
    assert found.nearest.tolist() == list(range(20))
    assert found.apart.high < 0.8
    assert found.authentic.accuracy < found.authentic_unseen.accuracy
    assert all(rate.accuracy >= 0.96 for rate in found.found.values())
    assert found.false.accuracy < 0.1


def test_a_model_that_does_not(sides: Sides) -> None:
    found = find_copies(SPACE, sides)
    assert found.copies.accuracy < 0.1
    assert 0.7 < found.apart.value < 1.4
    assert found.apart.low < found.apart.value < found.apart.high
    assert 0 < found.threshold < 0.8
    again = find_copies(SPACE, sides)
    assert found.apart == again.apart
    assert torch.equal(found.nearness, again.nearness)


def test_training_images_that_come_twice_hide_no_copy(sides: Sides) -> None:
    train = scenes(140)["images"][:60]
    doubled = replace(sides, train=looked(torch.cat([train, train])), made=looked(train[:20]))
    found = find_copies(SPACE, doubled)
    assert found.copies.accuracy == 1


def test_unseen_images_may_be_training_images(sides: Sides) -> None:
    own = replace(sides, unseen=sides.train, own=torch.arange(60))
    found = find_copies(SPACE, own)
    assert found.false.accuracy < 0.1
    assert found.copies.accuracy < 0.1


def test_the_closest_come_first(sides: Sides) -> None:
    images = scenes(140)["images"]
    mixed = torch.cat([images[120:130], images[3:4], images[130:]])
    found = find_copies(SPACE, replace(sides, made=looked(mixed)))
    assert closest_first([found])[0] == 10
    assert int(found.nearest[10]) == 3


def test_one_training_image_and_one_made(sides: Sides) -> None:
    one = sides.train[:1]
    planted = {kind: copies[:1] for kind, copies in sides.planted.items()}
    planted = {kind: Looked.joined([copies, copies]) for kind, copies in planted.items()}
    found = find_copies(SPACE, replace(sides, train=one, made=one, planted=planted))
    assert (found.copies.right, found.copies.total) == (1, 1)
    assert found.authentic.total == 0  # there is no other training image to compare with


def test_too_few_unseen_images(sides: Sides) -> None:
    with pytest.raises(ValueError, match="copies can only be told beside 8 or more"):
        find_copies(SPACE, replace(sides, unseen=sides.unseen[:7], own=sides.own[:7]))
