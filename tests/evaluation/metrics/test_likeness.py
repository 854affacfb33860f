"""The number that tuning goes by: what it rewards, and what it does not."""

import math

import pytest
import torch

from unclip.evaluation.metrics.likeness import Likeness, Real, looks

CAPTIONS = [f"number {k}" for k in range(8)]


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(seed: int, *shape: int) -> torch.Tensor:
    return (0.3 * drawn(seed, *shape, 3, 8, 8)).clamp(-1, 1)


def real(captions: list[str] = CAPTIONS) -> Real:
    z_t = torch.eye(8)
    return Real.of(pictures(0, 8), z_t + 0.1 * drawn(1, 8, 8), z_t, captions)


def test_a_perfect_copy_gets_nothing() -> None:
    images = pictures(0, 8)[:, None].repeat(1, 2, 1, 1, 1)
    z_i = (torch.eye(8) + 0.1 * drawn(1, 8, 8))[:, None].repeat(1, 2, 1)
    found = real().measure(images, z_i)
    assert found.score == pytest.approx(0, abs=1e-5)


def test_the_energy_score_is_proper() -> None:
    """Images as varied as the real ones of a caption beat the same one always, and wilder ones."""
    truth, captions = torch.zeros(200, 8), [str(k) for k in range(200)]
    own, images = drawn(3, 200, 8), pictures(4, 200)
    yardstick = Real.of(images, truth + own, torch.zeros(200, 8), captions)
    scores = []
    for spread in (0.0, 1.0, 3.0):
        z_i = yardstick.z_i.mean(dim=0) + spread * drawn(5, 200, 2, 8) / 8**0.5
        z_i = torch.cat([z_i, torch.full((200, 2, 1), 1e-3)], dim=-1)[..., :8]
        from unclip.evaluation.metrics.likeness import _energy

        scores.append(float(_energy(z_i, yardstick.z_i, yardstick.z_i).mean()))
    assert scores[1] < scores[0] < scores[2]


def test_burnt_images_are_seen_whatever_clip_says() -> None:
    images = pictures(0, 8)[:, None] + 0.02 * drawn(2, 8, 2, 3, 8, 8)
    z_i = torch.eye(8)[:, None].repeat(1, 2, 1)
    plain, burnt = (real().measure(one, z_i) for one in (images, (4 * images).clamp(-1, 1)))
    gain, error = plain.less_than(burnt)
    assert gain > 2 * error > 0
    assert plain.missed.tolist() == burnt.missed.tolist() == [0.0] * 8
    assert looks(torch.ones(1, 3, 8, 8)).tolist() == [[1, 0, 0, 0, 1, 0]]


def test_what_suits_another_caption_better_is_missed() -> None:
    images = pictures(6, 8, 2)
    z_i = torch.eye(8)[:, None].repeat(1, 2, 1)
    z_i[0, 0] = torch.tensor([0.1, *range(1, 8)])  # all others are nearer
    assert real().measure(images, z_i).missed.tolist() == [0.5, *[0.0] * 7]
    equal = [CAPTIONS[0], CAPTIONS[0], *CAPTIONS[2:]]
    assert real(equal).measure(images, z_i).missed[0] == 0.5  # the equal one is right, too
    z_i[0, 0] = torch.tensor([2, 3, 0, 0, 0, 0, 0, 0])
    assert real(equal).measure(images, z_i).missed[0] == 0
    missed = real().measure(images, z_i).missed[0]
    assert float(missed) == pytest.approx(math.log(2) / math.log(8) / 2)
    eye = torch.eye(9)[:, :8]
    more = Real.of(pictures(0, 8), eye[:8], torch.cat([eye[:8], eye[1:2]]), [*CAPTIONS, "wrong"])
    assert float(more.measure(images, z_i).missed[0]) == pytest.approx(
        math.log(3) / math.log(9) / 2
    )


def test_halves_are_the_whole() -> None:
    images, z_i = pictures(7, 8, 2), drawn(8, 8, 2, 8)
    whole = real().measure(images, z_i)
    halves = real().measure(images[:4], z_i[:4]) + real().measure(images[4:], z_i[4:], 4)
    assert torch.allclose(whole.scores, halves.scores)
    assert whole.less_than(whole) == (0, 0)
    half = Likeness(whole.distance[:4] - 1, whole.missed[:4])
    assert half.less_than(whole)[0] == pytest.approx(1)


def test_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match="3 captioned images to measure on; it takes 4"):
        Real.of(pictures(0, 3), torch.eye(3), torch.eye(3), CAPTIONS[:3])
