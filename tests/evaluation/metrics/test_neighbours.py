"""Precision, recall, density, coverage: those of the package prdc, exactly; intervals."""

import pytest
import torch
from torch import Tensor

from unclip.evaluation.metrics import neighbours
from unclip.evaluation.metrics.neighbours import _count, _estimate, prdc


def rows(count: int, seed: int, shift: float = 0.0, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator) + shift


@pytest.mark.parametrize(("n", "m", "k"), [(100, 80, 5), (40, 90, 3), (30, 30, 1), (20, 12, 10)])
def test_it_is_the_package(
    n: int, m: int, k: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = pytest.importorskip("prdc")
    monkeypatch.setattr(neighbours, "ROWS", 16)  # several blocks
    real, fake = rows(n, 1), rows(m, 2, 0.3)
    expected = theirs.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=k)
    found = prdc(real, fake, k).estimates()
    assert {name: one.value for name, one in found.items()} == pytest.approx(expected, abs=1e-12)


def test_what_is_left_out_is_as_if_it_had_not_been_there() -> None:
    """Each tenth of the jackknife against a count of the others alone."""
    real, fake = rows(70, 3).double(), rows(60, 4, 0.2).double()
    counted = _count(real, fake, 3, 10)
    for g in (0, 4, 9):
        kept = [x[torch.arange(len(x)) % 10 != g] for x in (real, fake)]
        torch.testing.assert_close(counted[g + 1], _count(*kept, 3, 0)[0])


def test_a_group_that_holds_all_near_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The short list of neighbours is too short without it; the distances are looked at again."""
    monkeypatch.setattr(neighbours, "_SPARE", 0)
    near = torch.zeros(8, 2) + torch.arange(8)[:, None] * 1e-3
    far = rows(72, 5, 5.0, 2)
    real = torch.cat([torch.cat([near[i : i + 1], far[9 * i : 9 * i + 9]]) for i in range(8)])
    fake = rows(80, 6, 2.0, 2).double()
    counted = _count(real.double(), fake, 8, 10)
    kept = [x[torch.arange(len(x)) % 10 != 0] for x in (real.double(), fake)]
    torch.testing.assert_close(counted[1], _count(*kept, 8, 0)[0])


def test_what_each_notices() -> None:
    real = rows(200, 1)
    few = rows(4, 2)[torch.arange(200) % 4] + 0.01 * rows(200, 3)  # mode collapse
    found = prdc(real, few)
    assert found.recall.high < 0.3
    assert found.coverage.high < 0.3 < found.precision.value
    away = prdc(real, rows(200, 4, 4.0))
    assert away.precision.value == away.coverage.value == 0.0
    assert away.precision.low == 0.0 < away.precision.high < 0.05
    same = prdc(real, rows(200, 5))
    assert min(same.precision.value, same.recall.value, same.coverage.value) > 0.8
    assert same.precision.high <= 1.0


def test_intervals_are_what_new_images_change() -> None:
    found = [prdc(rows(150, 2 * k), rows(150, 2 * k + 1, 0.5)) for k in range(40)]
    for name in ("precision", "recall", "density", "coverage"):
        ones = [one.estimates()[name] for one in found]
        values = torch.tensor([one.value for one in ones])
        errors = torch.tensor([(one.high - one.low) / (2 * 1.959964) for one in ones])
        assert 0.7 < float(errors.mean() / values.std()) < 1.7, name


def test_few_images() -> None:
    found = prdc(rows(6, 1), rows(7, 2), k=5)
    assert found.precision.note == "too few images for an interval"
    assert found.to_dict()["k"] == 5
    with pytest.raises(
        ValueError, match=r"the 6\. nearest neighbour was asked for, but there are 6"
    ):
        prdc(rows(6, 1), rows(7, 2), k=6)
    with pytest.raises(ValueError, match="k is 0; it must be 1 or more"):
        prdc(rows(6, 1), rows(7, 2), k=0)


def test_a_rate_of_one_has_an_interval() -> None:
    """Though a tenth less of the images brings it below 1."""
    found = _estimate([1.0, *[1.0] * 9, 0.98], 100)
    assert found.high == 1
    assert 0.9 < found.low < 1
