"""FID of features: torchmetrics' value, closed forms, its interval and where it leads."""

import math

import pytest
import torch
from torch import Tensor, nn

from unclip.evaluation.metrics.frechet import extrapolated, fid, frechet_distance
from unclip.networks.pca import Moments


def rows(count: int, width: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Correlated normal ones."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(99)).double()
    white = torch.randn(count, width, generator=generator).double()
    return (white @ mix / width**0.5 * scale + shift).float()


@pytest.mark.parametrize(("n", "m", "width"), [(300, 200, 24), (40, 60, 64), (30, 100, 48)])
def test_it_is_torchmetrics(n: int, m: int, width: int) -> None:
    """More rows than dimensions, fewer, and one of each."""
    torchmetrics = pytest.importorskip("torchmetrics.image.fid")
    a, b = rows(n, width, 1), rows(m, width, 2, 1.3, 0.2)

    class Given(nn.Module):  # "images" are the features themselves
        num_features = width

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    theirs = torchmetrics.FrechetInceptionDistance(
        feature=Given(), normalize=True, input_img_size=(1, 1, width)
    )
    theirs.set_dtype(torch.float64)
    theirs.inception = Given()
    for features, real in ((a, True), (b, False)):
        theirs.update(features[:, None, None].double(), real=real)
    assert fid(a, b).value == pytest.approx(float(theirs.compute()), rel=1e-4)


@pytest.mark.parametrize(("n", "m", "width"), [(200, 150, 16), (12, 30, 20), (40, 12, 20)])
def test_it_is_that_of_the_moments(n: int, m: int, width: int) -> None:
    a, b = rows(n, width, 3), rows(m, width, 4, 0.7, 1.0)
    expected = frechet_distance(Moments.of(a), Moments.of(b))
    assert fid(a, b).value == pytest.approx(expected, rel=1e-7)
    assert fid(b, a).value == pytest.approx(expected, rel=1e-7)


def test_a_feature_that_is_constant_or_said_twice() -> None:
    """Covariances without full rank, though there are many rows."""
    a, b = rows(60, 8, 5), rows(70, 8, 6, 1.2)
    wide = [torch.cat([x, x[:, :3], torch.full((len(x), 2), 3.0)], dim=1) for x in (a, b)]
    expected = frechet_distance(*(Moments.of(x) for x in wide))
    assert fid(*wide).value == pytest.approx(expected, rel=1e-6)


def test_its_interval_is_what_new_images_change() -> None:
    """In 60 draws of both sets, the deviation is that of the standard error within a fifth."""
    found = [fid(rows(200, 6, 2 * k), rows(240, 6, 2 * k + 1, 1.4, 0.3)) for k in range(60)]
    values = torch.tensor([one.value for one in found])
    errors = torch.tensor([(one.high - one.low) / (2 * 1.959964) for one in found])
    assert float(errors.mean()) == pytest.approx(float(values.std()), rel=0.2)
    middle = float(values.mean())
    covered = sum(one.low <= middle <= one.high for one in found)
    assert covered >= 53  # 57 are expected; fewer than 53 in 1 of 30


def test_more_images_lead_to_the_truth() -> None:
    """Of Gaussians that differ in the mean alone: FID is |Δμ|², and more with few images."""
    a, b = rows(400, 10, 7), rows(400, 10, 8, 1.0, 0.1)
    found = extrapolated(a, b)
    assert list(found.at) == [400, 200, 100]
    assert found.at[100] > found.at[200] > found.at[400] > found.limit.value
    assert found.at[400] == pytest.approx(fid(a, b).value)
    assert found.limit.low < 10 * 0.1**2 < found.limit.high
    assert found.limit.note == ""
    assert set(found.to_dict()) == {"at", "limit"}
    few = extrapolated(a[:40], b).limit
    assert "not more than the 10 dimensions" in few.note
    assert math.isnan(few.low)


def test_fewer_images_than_dimensions_are_said() -> None:
    assert fid(rows(21, 20, 1), rows(30, 20, 2)).note == ""
    note = fid(rows(20, 20, 1), rows(30, 20, 2)).note
    assert note.startswith("20 images are not more than the 20 dimensions")
    assert "KID and CMMD" in note


def test_what_cannot_be_compared() -> None:
    a = rows(10, 3, 1)
    for x, y, says in (
        (a, a, "both sets are the same images"),
        (a, a.flip(0), "both sets are the same images"),
        (a, a[:, :2], "width 3 and 2 cannot be compared; take one extractor"),
        (a, a[:1], "the second features are of 1 image; it takes 2 or more"),
        (a[:0], a, "the first features are of 0 images"),
        (a, torch.where(a > 1, torch.nan, a), r"of \d images? have values that are not finite"),
        (a[0], a, r"give floats \(N, D\)"),
        (a.long(), a, r"give floats \(N, D\)"),
    ):
        with pytest.raises(ValueError, match=says):
            fid(x, y)
    with pytest.raises(ValueError, match="8 or more"):
        extrapolated(a, rows(7, 3, 2))


def test_inceptions_2048_dimensions() -> None:
    """The matrices are as small as the sets of images."""
    a, b = (torch.randn(300, 2048, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    found = fid(a, b * 1.1)
    assert found.low < found.value < found.high
    assert found.note
