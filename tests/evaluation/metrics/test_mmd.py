"""KID and CMMD: torchmetrics' value, the published code's, no bias, intervals."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.evaluation.metrics import mmd
from unclip.evaluation.metrics.mmd import cmmd, kid


def rows(count: int, seed: int, shift: float = 0.0, width: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator) + shift


@pytest.mark.filterwarnings("ignore::UserWarning:torchmetrics")
def test_kid_is_torchmetrics() -> None:
    """Whose subsets are the whole of the smaller set here."""
    torchmetrics = pytest.importorskip("torchmetrics.image.kid")
    a, b = rows(80, 1), rows(80, 2, 0.3)

    class Given(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    theirs = torchmetrics.KernelInceptionDistance(
        feature=Given(), subsets=2, subset_size=80, normalize=True
    )
    for features, real in ((a, True), (b, False)):
        theirs.real_features.append(features) if real else theirs.fake_features.append(features)
    expected, _ = theirs.compute()
    assert kid(a, b).value == pytest.approx(float(expected), rel=1e-4)


def test_cmmd_is_what_the_published_code_computes() -> None:
    """Its formula, written out: σ = 10, times 1,000, each image with itself too."""
    a, b = rows(30, 3), rows(40, 4, 0.5)
    x, y = F.normalize(a.double()), F.normalize(b.double())
    means = [torch.exp(-(torch.cdist(p, q) ** 2) / 200).mean() for p, q in ((x, x), (y, y), (x, y))]
    expected = 1000 * (means[0] + means[1] - 2 * means[2])
    found = cmmd(a, b)
    assert found.published == pytest.approx(float(expected), rel=1e-9)
    assert found.value < found.published
    assert found.to_dict()["published"] == found.published


@pytest.mark.parametrize("metric", [kid, cmmd])
def test_equal_distributions_are_at_no_distance(metric: object) -> None:
    """Halves of the same data are below 0 about as often as above, and within the interval."""
    found = [metric(rows(60, 2 * k), rows(50, 2 * k + 1)) for k in range(60)]  # type: ignore
    below = sum(one.value <= 0 for one in found)
    assert 20 <= below <= 45
    mean = sum(one.value for one in found) / 60
    half = sum(one.high - one.low for one in found) / 120
    assert abs(mean) < half / 3
    assert sum(one.low <= 0 <= one.high for one in found) >= 55


@pytest.mark.parametrize("metric", [kid, cmmd])
def test_intervals_are_what_new_images_change(metric: object) -> None:
    found = [metric(rows(80, 2 * k), rows(90, 2 * k + 1, 0.4)) for k in range(60)]  # type: ignore
    values = torch.tensor([one.value for one in found])
    errors = torch.tensor([(one.high - one.low) / (2 * 1.959964) for one in found])
    assert float(errors.mean()) == pytest.approx(float(values.std()), rel=0.25)


def test_large_sets_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = rows(90, 1), rows(70, 2, 0.4)
    whole = kid(a, b)
    monkeypatch.setattr(mmd, "MOST", 30)
    cut = kid(a, b)
    parts = [kid(x, y).value for x, y in zip(a.tensor_split(3), b.tensor_split(3), strict=True)]
    assert cut.value == pytest.approx(sum(parts) / 3)
    assert whole.low < cut.value < whole.high


def test_two_images_have_no_interval() -> None:
    found = kid(rows(2, 1), rows(5, 2, 3.0))
    assert found.to_dict()["interval"] == [None, None]
    assert found.note == "too few images for an interval"
    with pytest.raises(ValueError, match="both sets are the same images"):
        cmmd(rows(5, 1), rows(5, 1))
