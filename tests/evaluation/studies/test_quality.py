"""Features become numbers of a report: what is generated, and what real images get beside it."""

import pytest
import torch
from torch import Tensor

from unclip.evaluation.metrics.aesthetic import Probe
from unclip.evaluation.report import Conditions, Report
from unclip.evaluation.studies.agreement import agreement
from unclip.evaluation.studies.guidance import by_scale, plots, table, tradeoff
from unclip.evaluation.studies.quality import (
    GENERATED,
    REAL,
    Seen,
    by_number,
    distances,
    neighbours,
    spread,
)

UNDER = Conditions(40, "real images", 40, "held-out", "none", "none", 32)


class Named:
    """An extractor of features that are there already."""

    size, dimensions = 4, 6

    def __init__(self, layer: str) -> None:
        self.name, self.hash, self.layer = f"of {layer}", "0" * 16, layer

    def __call__(self, images: Tensor) -> Tensor:
        raise AssertionError


def seen(shift: float, layer: str = "z_i", own: bool = True) -> Seen:
    generator = torch.Generator().manual_seed(0)
    made, others, real = torch.randn(3, 40, 6, generator=generator)
    return Seen(Named(layer), made + shift, others, real if own else None)


def test_what_is_generated_stands_beside_what_is_real() -> None:
    report = Report("")
    found = distances(seen(2.0), UNDER, report)
    assert set(found) == {GENERATED, REAL}
    for of, numbers in found.items():
        assert list(numbers) == ["FID", "FID, extrapolated", "KID × 1000", "CMMD"]
        assert numbers["FID"].low < numbers["FID"].value < numbers["FID"].high, of
    assert found[GENERATED]["FID"].value > 15 > found[REAL]["FID"].value
    assert len(report.numbers) == 8
    assert all(one.under.extractor_hash == "0" * 16 for one in report.numbers)
    (plot,) = report.plots
    assert list(plot.series[0].places) == [0.0, 1 / 40, 1 / 20, 1 / 10]


def test_cmmd_is_of_clip_alone_and_real_ones_need_others() -> None:
    found = distances(seen(0.0, "pooled", own=False), UNDER, Report(""))
    assert set(found) == {GENERATED}
    assert "CMMD" not in found[GENERATED]


def test_few_images_have_no_extrapolation_and_fewer_neighbours() -> None:
    few = seen(0.0)
    few = Seen(few.extractor, few.made[:3], few.others[:3])
    assert "FID, extrapolated" not in distances(few, UNDER, Report(""))[GENERATED]
    assert "recall (k = 2)" in neighbours(few, UNDER, Report(""))[GENERATED]


def test_neighbours_and_spread_see_a_collapse() -> None:
    one = seen(0.0)
    same = Seen(one.extractor, one.made[:1] + 1e-3 * one.made, one.others)
    report = Report("")
    recall = [neighbours(x, UNDER, report)[GENERATED]["recall (k = 5)"].value for x in (one, same)]
    apart = [spread(x, UNDER, report)[GENERATED].value for x in (one, same)]
    assert recall[1] < 0.1 < recall[0]
    assert apart[1] < 0.01 < apart[0]
    assert by_number("title", "y", {"of": neighbours(one, UNDER, report)[GENERATED]}).series


def test_agreement_counts_equal_captions_as_right() -> None:
    z_t = torch.eye(6)
    report = Report("")
    found = agreement(
        z_t[[0, 1, 2, 2]], z_t[[0, 1, 2, 2]], ["a", "b", "c", "c"], UNDER, "x", report
    )
    assert found["CLIP score"].value == pytest.approx(100)
    assert found["text → image, among 4, first 1"].value == 1
    wrong = agreement(z_t[[1, 0]], z_t[[0, 1]], ["a", "b"], UNDER, "x", report)
    assert wrong["image → text, among 2, first 1"].value == 0


def test_a_sweep_has_a_number_of_each_kind_at_each_scale() -> None:
    report, z_t = Report(""), torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    captions = [str(k) for k in range(40)]
    probe = Probe(torch.ones(6, dtype=torch.float64), 5.0)
    found = {
        scale: by_scale(scale, seen(scale), z_t, captions, UNDER, report, probe)
        for scale in (1.0, 2.0)
    }
    assert {one.of for one in report.numbers} == {"scale 1", "scale 2"}
    names = {plot.y for plot in plots("clip", found)}
    assert {"FID", "recall (k = 5)", "CLIP score", "aesthetic score"} <= names
    rows = table("clip", found)
    assert rows[0] == ("by clip", "scale 1", "scale 2")
    assert all(" to " in cell for row in rows[1:] if row[0] in ("FID", "CMMD") for cell in row[1:])
    pairs = tradeoff("clip", found, "recall (k = 5)", "FID")
    places = [float(place) for place in pairs.series[0].places]
    assert places == sorted(places)
