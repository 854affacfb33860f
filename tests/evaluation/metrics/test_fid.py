"""The Fréchet distance: closed forms, equal sets, a perfect and a bad generator."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unclip.data.registry import open_source
from unclip.evaluation.metrics.fid import (
    evaluate_fid,
    fid,
    image_moments,
    real_images,
)
from unclip.evaluation.metrics.frechet import frechet_distance
from unclip.networks.pca import Moments
from unclip.stages.conditioning import FrozenCLIP
from unclip.storage.folder import ModelFolder

SOURCE = open_source("emoji:shapes", size=32, split="held-out")


@pytest.fixture(scope="module")
def clip(tiny_model: Path) -> FrozenCLIP:
    return FrozenCLIP.load(ModelFolder(tiny_model))


def gaussian(mean: list[float], covariance: Tensor, count: int = 50) -> Moments:
    """Of rows whose mean and covariance are exactly these."""
    width = len(mean)
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(0)).double()
    rows = rows - rows.mean(0)
    white = rows @ torch.linalg.inv(torch.linalg.cholesky(rows.T.cov())).T
    root = torch.linalg.cholesky(covariance.double())
    return Moments.of(white @ root.T + torch.tensor(mean, dtype=torch.float64))


def test_gaussians_whose_covariances_commute() -> None:
    """|Δμ|² + Σ (√a - √b)²."""
    a = gaussian([0.0, 1.0, 2.0], torch.diag(torch.tensor([1.0, 4.0, 9.0])))
    b = gaussian([3.0, 1.0, -2.0], torch.diag(torch.tensor([4.0, 4.0, 0.25])))
    assert frechet_distance(a, b) == pytest.approx(9 + 16 + 1 + 0 + 6.25, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_gaussians_whose_covariances_do_not() -> None:
    """In two dimensions tr √M = √(tr M + 2 √det M), for M = Σ_a Σ_b."""
    first = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    second = torch.tensor([[0.5, -0.3], [-0.3, 3.0]], dtype=torch.float64)
    product = first @ second
    root = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    expected = 1 + first.trace() + second.trace() - 2 * root
    a, b = gaussian([0.0, 0.0], first), gaussian([0.0, 1.0], second)
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("count", [5, 200])  # fewer rows than dimensions: singular covariances
def test_equal_sets_are_at_no_distance(count: int) -> None:
    rows = 100 * torch.randn(count, 40, generator=torch.Generator().manual_seed(1)) + 1000
    whole, cut = Moments.of(rows), Moments(40)
    for part in rows.flip(0).split(3):
        cut.add(part)
    assert frechet_distance(whole, cut) < 1e-8 * whole.covariance.trace().item()
    shifted = Moments.of(rows + 2)
    assert frechet_distance(whole, shifted) == pytest.approx(4 * 40, rel=1e-6)


def test_what_cannot_be_compared() -> None:
    rows = torch.randn(4, 3)
    with pytest.raises(ValueError, match="width 3 and 2"):
        frechet_distance(Moments.of(rows), Moments.of(rows[:, :2]))
    with pytest.raises(ValueError, match="two images or more"):
        frechet_distance(Moments.of(rows), Moments.of(rows[:1]))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(Moments.of(rows), Moments.of(rows * torch.inf))


def test_of_images_in_batches_of_any_size(clip: FrozenCLIP) -> None:
    at_once, in_parts = (image_moments(clip, real_images(SOURCE, range(9), n)) for n in (9, 4))
    assert at_once.count == in_parts.count == 9
    torch.testing.assert_close(at_once.covariance, in_parts.covariance, atol=1e-6, rtol=1e-5)
    others = list(real_images(SOURCE, range(9, 18)))
    some = fid(clip, real_images(SOURCE, range(9)), others)
    assert some > 1e-3
    darker = [images / 4 - 0.5 for images in others]
    assert fid(clip, real_images(SOURCE, range(9)), darker) > some


def test_a_perfect_generator_and_a_bad_one(clip: FrozenCLIP) -> None:
    asked: list[str] = []

    def perfect(captions: list[str], seed: int) -> Tensor:
        asked.extend(captions)
        return next(iter(real_images(SOURCE, range(seed, seed + len(captions)))))

    def noise(captions: list[str], seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(len(captions), 3, 32, 32, generator=generator) * 2 - 1

    good, bad = (evaluate_fid(clip, g, SOURCE, 12, 5) for g in (perfect, noise))
    assert asked == [SOURCE.caption(i) for i in range(12)]
    assert good.images == 12
    # A perfect generator gets what the real images of its captions get, against the same others.
    assert good.generated == pytest.approx(good.real, rel=1e-6)
    assert 1e-3 < good.real < bad.generated
    assert good.real == bad.real
    with pytest.raises(ValueError, match="n is 1"):
        evaluate_fid(clip, perfect, SOURCE, 1)


def test_a_folder_has_as_many_images_as_it_has(clip: FrozenCLIP, captioned: Path) -> None:
    folder = open_source(str(captioned), size=32, split="all")  # 24 images

    def first(captions: list[str], seed: int) -> Tensor:
        return next(iter(real_images(folder, range(len(captions)))))

    assert evaluate_fid(clip, first, folder, 12).real > 0
    with pytest.raises(ValueError, match="the data has only 24: ask for 12 or fewer"):
        evaluate_fid(clip, first, folder, 13)
