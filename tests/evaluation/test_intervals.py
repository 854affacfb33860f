"""Intervals: known values, and that they cover what they say."""

import math

import pytest
import torch

from unclip.evaluation.intervals import (
    Estimate,
    Rate,
    bootstrap,
    jackknife,
    mean,
    percentiles,
    student,
    wilson,
)


def test_wilson() -> None:
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)
    assert Rate(8, 10).interval == wilson(8, 10)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227)],
)
def test_student(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, rel=0.01)


def test_means_cover_the_truth() -> None:
    """Of samples of 6, where the normal distribution's quantile would cover 89 %."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for sample in torch.randn(2000, 6, generator=generator):
        found = mean(sample + 3)
        covered += found.low <= 3 <= found.high
    assert 0.93 < covered / 2000 < 0.97
    assert math.isnan(mean(torch.ones(1)).low)
    for bad in (torch.zeros(0), torch.tensor([1.0, torch.nan])):
        with pytest.raises(ValueError, match="at least one, and finite ones only"):
            mean(bad)


def test_the_bootstrap_covers_the_truth() -> None:
    """The median of 80 uniform numbers."""
    covered = 0
    for seed in range(150):
        values = torch.rand(80, generator=torch.Generator().manual_seed(seed))
        found = bootstrap(lambda n, v=values: float(v[n].median()), 80, 200, seed)
        covered += found.low <= 0.5 <= found.high
    assert 0.89 < covered / 150 <= 0.99
    assert bootstrap(lambda n: 2.0, 5, 20).interval == (2.0, 2.0)
    with pytest.raises(ValueError, match="the number of rows is 0"):
        bootstrap(lambda n: 0.0, 0)


def test_percentiles_pass_over_nan() -> None:
    numbers = [float(x) for x in range(41)]
    assert percentiles([*numbers, math.nan]) == (1.0, 39.0)
    assert all(math.isnan(x) for x in percentiles([math.nan]))


def test_the_jackknife_of_a_difference_of_means() -> None:
    a, b = torch.randn(50), torch.randn(80) + 2
    found = jackknife(float(a.mean() - b.mean()), a, -b)
    error = math.sqrt(a.double().var() / 50 + b.double().var() / 80)
    assert found.high - found.low == pytest.approx(2 * 1.959964 * error)


def test_an_estimate_shows_itself() -> None:
    found = Estimate.of(2.0, 2.0, least=0.0)
    assert found.interval == (0.0, pytest.approx(5.92, abs=0.01))
    assert str(found) == "2 (0 to 5.92)"
    assert found.scaled(10).value == 20.0
    assert Estimate(1.0, math.nan, math.nan, "why").to_dict() == {
        "value": 1.0, "interval": [None, None], "note": "why",
    }  # fmt: skip


def test_the_interval_holds_the_rate() -> None:
    for total in range(1, 60):
        assert wilson(0, total)[0] == 0
        assert wilson(total, total)[1] == 1
