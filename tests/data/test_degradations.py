"""BSR: deterministic, truly random in kind and strength, in register with the original."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.data.batches import Order, batches
from unclip.data.degradations import DegradedSource, bsr, gaussian
from unclip.data.registry import open_source
from unclip.data.sources import Sample


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(size: int = 64) -> Tensor:
    """Smooth, with one bright disc off the centre: (3, size, size) uint8."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = ((y - 0.4 * size) ** 2 + (x - 0.6 * size) ** 2 < (size / 5) ** 2) * 120.0
    return torch.stack([disc + 60, disc + x / size * 90, disc + y / size * 90]).to(torch.uint8)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [16, 64])
def test_a_seed_is_one_small_image(factor: int, size: int) -> None:
    image = picture(size)
    made = [bsr(image, factor, seeded(seed)) for seed in range(4)]
    assert all(one.shape == (3, size // factor, size // factor) for one in made)
    assert all(one.dtype == torch.uint8 for one in made)
    assert torch.equal(bsr(image, factor, seeded(3)), made[3])
    assert not torch.equal(made[0], made[1])
    assert torch.equal(image, picture(size))  # not written into


def test_the_small_image_stays_in_register() -> None:
    """On average over degradations it is the original made smaller, not a shifted one."""
    image = picture()
    mean = torch.stack([bsr(image, 4, seeded(seed)).float() for seed in range(200)]).mean(dim=0)
    area = F.avg_pool2d(image.float(), 4)

    def distance(dy: int, dx: int) -> float:
        moved = torch.roll(area, (dy, dx), dims=(1, 2))
        return (moved - mean)[:, 2:-2, 2:-2].square().mean().item()

    here = distance(0, 0)
    for axis in ((1, 0), (0, 1)):
        back, ahead = distance(-axis[0], -axis[1]), distance(*axis)
        assert here < min(back, ahead)
        # The minimum of the parabola through the three, in pixels.
        assert abs(0.5 * (back - ahead) / (back + ahead - 2 * here)) < 0.1


def test_strength_is_the_damage() -> None:
    image = picture()
    area = F.avg_pool2d(image.float(), 4)

    def damage(strength: float) -> float:
        made = [bsr(image, 4, seeded(seed), strength).float() for seed in range(40)]
        return (torch.stack(made) - area).square().mean().item()

    none, half, full = damage(0.0), damage(0.5), damage(1.0)
    assert none < half / 1.5
    assert half < full / 1.5


def test_the_blur_is_a_gaussian_of_the_covariance() -> None:
    point = torch.zeros(1, 65, 65)
    point[0, 32, 32] = 1.0
    out = gaussian(point, (4.0, 2.0, 1.0), shift=0.5)[0]
    assert out.sum().item() == pytest.approx(1.0, abs=1e-4)
    y, x = torch.meshgrid(torch.arange(65.0) - 31.5, torch.arange(65.0) - 31.5, indexing="ij")
    assert (out * y).sum().item() == pytest.approx(0.0, abs=1e-3)  # moved by the half pixel
    assert (out * x).sum().item() == pytest.approx(0.0, abs=1e-3)
    for moment, expected in ((y * y, 4.0), (x * x, 2.0), (y * x, 1.0)):
        assert (out * moment).sum().item() == pytest.approx(expected, abs=2e-2)
    flat = torch.full((3, 9, 9), 77.0)
    torch.testing.assert_close(gaussian(flat, (4.0, 2.0, 1.0)), flat)  # edges too


def test_the_source_is_a_function_of_seed_and_index() -> None:
    world = open_source("emoji:shapes", size=64)
    source = DegradedSource(world, 32, 4, seed=5)
    sample = source[7]
    assert sample["image"].shape == (3, 32, 32)
    assert sample["small"].shape == (3, 8, 8)
    whole = world[7]["image"].unfold(1, 32, 1).unfold(2, 32, 1)  # (3, 33, 33, 32, 32)
    same = (whole.permute(1, 2, 0, 3, 4) == sample["image"]).flatten(2).all(dim=2)
    assert same.any()  # a crop of the image, untouched
    again = DegradedSource(open_source("emoji:shapes", size=64), 32, 4, seed=5)
    assert all(torch.equal(again[7][key], sample[key]) for key in ("image", "small"))  # type: ignore[literal-required]
    prints = {
        DegradedSource(world, side, factor, seed, strength).fingerprint()
        for side, factor, seed, strength in (
            (32, 4, 5, 1.0), (64, 4, 5, 1.0), (32, 2, 5, 1.0), (32, 4, 6, 1.0), (32, 4, 5, 0.5)
        )
    }  # fmt: skip
    assert len(prints) == 5
    assert world.fingerprint() not in prints


def test_only_some_are_degraded() -> None:
    world = open_source("emoji:shapes", size=64)
    source = DegradedSource(world, 32, 4, probability=0.5)
    kinds = []
    for index in range(16):
        sample = source[index]
        averaged = torch.nn.functional.avg_pool2d(sample["image"].float(), 4)
        kinds.append(bool(((sample["small"].float() - averaged).abs() <= 0.5).all()))
    assert 3 < sum(kinds) < 13
    assert source.fingerprint() != DegradedSource(world, 32, 4).fingerprint()


def test_batches_carry_the_small_images_whatever_step_they_start_at() -> None:
    source = DegradedSource(open_source("emoji:shapes", size=64), 32, 4)
    order = Order.of(source)
    stream = batches(source, order, 2)
    next(stream)
    second = next(stream)
    resumed = next(batches(source, order, 2, start_step=1))
    for key in ("images", "small"):
        assert torch.equal(second[key], resumed[key])  # type: ignore[literal-required]


def test_what_cannot_be() -> None:
    world = open_source("emoji:shapes", size=64)
    with pytest.raises(ValueError, match="crops of 30 pixels cannot be made smaller by 4"):
        DegradedSource(world, 30, 4)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        DegradedSource(world, 32, 4, strength=1.5)


def test_a_stream_cannot_be_asked_for_a_number() -> None:
    class Tape:
        endless = False

        def read(self, positions: Iterator[int]) -> Iterator[Sample]:
            raise NotImplementedError

        captions = check = fingerprint = read

    with pytest.raises(ValueError, match="read in order"):
        DegradedSource(Tape(), 8, 4)  # type: ignore[arg-type]
