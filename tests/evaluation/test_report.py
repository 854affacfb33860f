"""Reports: every number says what it was measured under, in JSON and in one HTML file."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from unclip.data.captions import Report as Listed
from unclip.evaluation import plots
from unclip.evaluation.html import page, write_html
from unclip.evaluation.intervals import Estimate, Rate
from unclip.evaluation.plots import svg
from unclip.evaluation.report import (
    Conditions,
    Plot,
    Report,
    Series,
    Sheet,
    crop_of,
    estimate_of,
    filter_of,
)
from unclip.files import write_json

UNDER = Conditions(12, "real images", 11, "held-out of mine", "none", crop_of(64, drawn=False), 32)
HOSTILE = '<script>alert(1)</script>\x1b[2J & "quotes"'


def report() -> Report:
    made = Report(f"Model {HOSTILE}", {"model": HOSTILE, "seed": 3}, notes=["few images"])
    found = {"FID": Estimate(3.5, 2.0, 5.0, "too few"), "KID": Estimate(0.1, math.nan, math.nan)}
    made.add(UNDER, "generated", found, "lower")
    made.add(UNDER, "generated", {"right": estimate_of(Rate(3, 4))}, "higher")
    curve = [Series("a", [1.0, 2.0], [Estimate(1, 0, 2), Estimate(2, math.nan, math.nan)])]
    made.plots += [
        Plot("curve $\\frac{$ 図", "x", "y", [*curve, Series("b", [1.0], [Estimate(1, 0, 2)])]),
        Plot("named", "", "y", [Series("of", ["one", "two"], [Estimate(1, 0, 2)] * 2)]),
    ]
    grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    made.sheets.append(Sheet("pictures", ("real", "made"), [(HOSTILE, [grey, grey])]))
    return made


class Checker(HTMLParser):
    """Collects what a page has, and finds elements that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_file_in_which_nothing_runs(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_html(report(), file)
    text = file.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    tags = [tag for tag, _ in checker.seen]
    assert not {"script", "link", "iframe", "object"} & set(tags)
    assert tags.count("img") == 2
    for tag, attributes in checker.seen:
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/png;base64,")
            assert attributes["width"] == "128"
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert "\x1b" not in text
    for said in ("3.5 (2 to 5)", "0.1 (no interval)", "too few", "held-out of mine", "curve"):
        assert said in text


def test_the_same_numbers_make_the_same_page() -> None:
    assert page(report()) == page(report())
    assert svg(report().plots[0]).startswith("<svg")


def test_numbers_carry_their_conditions_into_json(tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", report().to_dict())
    first, second, third = json.loads((tmp_path / "report.json").read_text())["numbers"]
    assert first["value"] == 3.5
    assert first["interval"] == [2.0, 5.0]
    assert second["interval"] == [None, None]
    assert third["value"] == 0.75
    under = first["under"]
    assert (under["images"], under["references"], under["made"]) == (12, 11, 32)
    assert {"reference", "split", "filter", "crop", "colours"} <= set(under)


def test_what_was_left_out_of_data_is_counted() -> None:
    whole = Listed("mine", images=3, usable=3)
    assert filter_of(whole) == "none"
    part = Listed("mine", images=3, usable=2, problems={"images that are small": ["a.png"]})
    assert filter_of(part) == "left out: 1 image that is small (a.png)" or "a.png" in filter_of(
        part
    )
    both = Listed("both", parts=[whole, part])
    assert "a.png" in filter_of(both)


def test_a_report_without_matplotlib_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'unclip\[report\]'"):
        plots.check_plots()
