"""The number that tuning goes by: what it rewards, and what it does not."""

import math

import pytest
import torch

from unclip.evaluation.metrics.likeness import Likeness, Real, _unlike, looks

CAPTIONS = [f"number {k}" for k in range(8)]


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(seed: int, *shape: int) -> torch.Tensor:
    return (0.3 * drawn(seed, *shape, 3, 8, 8)).clamp(-1, 1)


def real(captions: list[str] = CAPTIONS) -> Real:
    z_t = torch.eye(8)
    return Real.of(pictures(0, 8), z_t + 0.1 * drawn(1, 8, 8), z_t, captions)


def measured(yardstick: Real, images: torch.Tensor, z_i: torch.Tensor) -> Likeness:
    return yardstick.measure(yardstick.seen(images, z_i))


def test_a_copy_is_neither_far_nor_missed_nor_unlike() -> None:
    images = pictures(0, 8)[:, None].repeat(1, 2, 1, 1, 1)
    z_i = (torch.eye(8) + 0.1 * drawn(1, 8, 8))[:, None].repeat(1, 2, 1)
    found = measured(real(), images, z_i)
    assert found.far.tolist() == pytest.approx([0] * 8, abs=1e-6)
    assert found.missed.tolist() == [0] * 8
    assert float(found.unlike.mean()) == pytest.approx(0, abs=1e-6)


def test_unlike_is_the_energy_distance() -> None:
    """Against its definition, pair by pair, and 0 for more of the same distribution."""
    made, own = drawn(3, 5, 2, 4), drawn(4, 5, 4)
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    cross = sum(float((made[i, m] - own[j]).norm()) for i, j in pairs for m in (0, 1)) / 40
    among = sum(float((made[i, m] - made[j, k]).norm()) for i, j in pairs for m in (0, 1)
                for k in (0, 1)) / 80  # fmt: skip
    apart = sum(float((own[i] - own[j]).norm()) for i, j in pairs) / 20
    wanted = (2 * cross - among - apart) / apart
    assert float(_unlike(made, own).mean()) == pytest.approx(wanted, rel=1e-4)
    many, other = drawn(5, 400, 2, 4), drawn(6, 400, 4)
    found = _unlike(many, other)
    assert abs(float(found.mean())) < 4 * float(found.std()) / 20 < 0.05
    assert float(_unlike(many + 0.5, other).mean()) > 0.05
    assert float(_unlike(0.1 * many, other).mean()) > 0.2  # all the same
    half = _unlike(many[:200] + 0.5, other)
    assert float(half.mean()) == pytest.approx(float(_unlike(many + 0.5, other).mean()), abs=0.05)


def test_burnt_images_are_seen_whatever_clip_says() -> None:
    images = pictures(0, 8)[:, None] + 0.02 * drawn(2, 8, 2, 3, 8, 8)
    z_i = torch.eye(8)[:, None].repeat(1, 2, 1)
    plain, burnt = (measured(real(), one, z_i) for one in (images, (4 * images).clamp(-1, 1)))
    gain, error = plain.less_than(burnt)
    assert gain > 2 * error > 0
    assert plain.missed.tolist() == burnt.missed.tolist() == [0.0] * 8
    assert plain.far.tolist() == burnt.far.tolist()
    assert looks(torch.ones(1, 3, 8, 8)).tolist() == [[1, 0, 0, 0, 1, 0]]


def test_what_suits_another_caption_better_is_missed() -> None:
    images = pictures(6, 8, 2)
    z_i = torch.eye(8)[:, None].repeat(1, 2, 1)
    z_i[0, 0] = torch.tensor([0.1, *range(1, 8)])  # all others are nearer
    assert measured(real(), images, z_i).missed.tolist() == [0.5, *[0.0] * 7]
    equal = [CAPTIONS[0], CAPTIONS[0], *CAPTIONS[2:]]
    assert measured(real(equal), images, z_i).missed[0] == 0.5  # the equal one is right, too
    z_i[0, 0] = torch.tensor([2, 3, 0, 0, 0, 0, 0, 0])
    assert measured(real(equal), images, z_i).missed[0] == 0
    missed = measured(real(), images, z_i).missed[0]
    assert float(missed) == pytest.approx(math.log(2) / math.log(8) / 2)
    z_t = torch.eye(8)[[*range(8), 1]]  # one more that is wrong
    more = Real.of(pictures(0, 8), z_t[:8], z_t, [*CAPTIONS, "x"])
    missed = measured(more, images, z_i).missed[0]
    assert float(missed) == pytest.approx(math.log(3) / math.log(9) / 2)


def test_halves_are_the_whole() -> None:
    images, z_i, yardstick = pictures(7, 8, 2), drawn(8, 8, 2, 8), real()
    whole = yardstick.seen(images, z_i)
    halves = yardstick.seen(images[:4], z_i[:4]) + yardstick.seen(images[4:], z_i[4:])
    found = yardstick.measure(whole)
    assert torch.equal(found.scores, yardstick.measure(halves).scores)
    assert found.less_than(found) == (0, 0)
    half = yardstick.measure(yardstick.seen(images[:4], z_i[:4]))
    assert half.far.tolist() == found.far[:4].tolist()
    less = Likeness(found.far[:4] - 1, found.missed[:4], found.unlike[:4])
    assert less.less_than(found)[0] == pytest.approx(1)


def test_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match="3 captioned images cannot be measured on; it takes 4"):
        Real.of(pictures(0, 3), torch.eye(3), torch.eye(3), CAPTIONS[:3])
