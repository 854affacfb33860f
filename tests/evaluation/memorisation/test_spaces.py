"""Where copies lie: crops at next to no distance, and a search that is a plain one."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny import scenes
from unclip.evaluation.memorisation.planted import KINDS, plant
from unclip.evaluation.memorisation.spaces import Features, Looked, Pixels, Space, search


class Means:
    """An extractor: the mean of each quarter of an image, by colours."""

    name, hash, size, dimensions = "means", "means-1", 2, 12

    def __call__(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) + 2


def looked(space: Space, images: Tensor) -> Looked:
    return space.look(images.split(5), lambda count: None)


@pytest.fixture(params=["pixels", "features"])
def space(request: pytest.FixtureRequest, tmp_path: Path) -> Space:
    return Pixels() if request.param == "pixels" else Features(Means(), tmp_path)


def test_exact_and_flipped_copies_are_at_no_distance(space: Space) -> None:
    images = scenes(12)["images"]
    bank = looked(space, images)
    for kind in ("exact", "flipped"):
        distances, numbers = space.nearest(
            looked(space, plant(images, kind, 0)), bank, torch.full((12,), -1)
        )
        assert numbers.tolist() == list(range(12))
        assert float(distances.max()) < 0.01


def test_ones_own_image_is_passed_over(space: Space) -> None:
    images = scenes(12)["images"]
    bank, own = looked(space, images), torch.arange(12)
    distances, numbers = space.nearest(bank, bank, own)
    assert (numbers != own).all()
    assert float(distances.min()) > 0.01
    around = space.neighbours(bank, bank, own, 3)
    assert around.isfinite().all()
    assert (around > 0.01).all()
    alone, _ = space.nearest(bank[:1], bank[:1], torch.zeros(1, dtype=torch.long))
    assert alone.isinf().all()


def test_crops_of_any_place_are_found_in_pixels() -> None:
    space, images = Pixels(), scenes(40, size=64)["images"]
    bank = looked(space, images)
    away = torch.full((40,), -1)
    crops = looked(space, plant(images, "cropped", 3).flip(-1))  # mirrored as well
    distances, numbers = space.nearest(crops, bank, away)
    assert (numbers == torch.arange(40)).all()
    plain = (crops.forms[1] - bank.plain).norm(dim=1)  # without looking for the crop
    assert float((distances / plain).median()) < 0.3


def test_the_search_is_a_plain_one() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(2, 7, 5, generator=generator)
    bank = torch.randn(3, 20, 5, generator=generator)
    own = torch.tensor([-1, 3, 19, -1, -1, 0, 8])
    found = search(queries, bank.split(6, dim=1), 4, own)
    apart = torch.stack([torch.cdist(q, b) for b in bank for q in queries])  # (6, Q, N)
    expected = apart.amin(dim=0)
    expected[torch.arange(7)[own >= 0], own[own >= 0]] = torch.inf
    values, numbers = expected.topk(4, largest=False)
    assert torch.allclose(found.distances, values)
    assert torch.equal(found.numbers, numbers)
    assert torch.equal(found.forms, apart.argmin(dim=0).gather(1, numbers))


def test_copies_are_copies() -> None:
    images = scenes(6)["images"]
    for kind in KINDS:
        copies = plant(images, kind, 5)
        assert copies.shape == images.shape
        assert copies.abs().max() <= 1
        assert torch.equal(copies, plant(images, kind, 5))
        assert torch.equal(copies, images) == (kind == "exact")
