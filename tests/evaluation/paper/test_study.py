"""A study is measured row by row, goes on where it was killed, and says what is in its file."""

import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from unclip.evaluation.intervals import Estimate, Rate
from unclip.evaluation.paper.lab import Lab
from unclip.evaluation.paper.study import (
    Cell,
    Study,
    apart,
    best,
    bounds,
    having,
    number,
    plain,
    run,
    said,
)


class Counted:
    """A lab that knows only what is noted of it, and a study that counts what it measures."""

    def __init__(self, n: int = 100) -> None:
        self.n, self.measured = n, list[int]()
        self.stop_at = self.refused = -1

    def facts(self) -> Mapping[str, Any]:
        return {"n": self.n, "date": str(len(self.measured))}

    def measure(self, scale: int) -> Mapping[str, Any]:
        if scale == self.stop_at:
            raise KeyboardInterrupt
        if scale == self.refused:
            raise ValueError(f"no {scale}")
        self.measured.append(scale)
        later: Future[Rate] = Future()
        later.set_result(Rate(scale, 10))
        return {"exact": later}

    def cells(self, _: Lab) -> list[Cell]:
        return [Cell({"guidance": scale}, partial(self.measure, scale)) for scale in (3, 1, 2)]

    @property
    def study(self) -> Study:
        return Study("z", "counted", "", "", "", ("exact",), self.cells, lambda rows: "")


def ran(counted: Counted, folder: Path) -> list[dict[str, Any]]:
    return run(counted.study, cast(Lab, counted), folder, lambda line: None)


def test_a_killed_study_goes_on(tmp_path: Path) -> None:
    counted = Counted()
    counted.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        ran(counted, tmp_path)
    assert len(json.loads((tmp_path / "z-counted.json").read_text())["rows"]) == 2
    counted.stop_at = -1
    ran(counted, tmp_path)
    assert counted.measured == [3, 1, 2]
    rows = json.loads((tmp_path / "z-counted.json").read_text())["rows"]
    assert [row["setting"]["guidance"] for row in rows] == [3, 1, 2]
    assert rows[0]["values"]["exact"]["value"] == 0.3
    assert ran(counted, tmp_path)
    assert counted.measured == [3, 1, 2]


def test_what_cannot_be_measured_is_left_out(tmp_path: Path) -> None:
    counted, lines = Counted(), list[str]()
    counted.refused = 1
    rows = run(counted.study, cast(Lab, counted), tmp_path, lines.append)
    assert [row["setting"]["guidance"] for row in rows] == [3, 2]
    assert lines[1] == "guidance 1 is left out: no 1"
    counted.refused = -1
    rows = run(counted.study, cast(Lab, counted), tmp_path, lines.append, lambda: True)
    assert len(rows) == 2
    assert len(ran(counted, tmp_path)) == 3


def test_another_runs_file_is_refused(tmp_path: Path) -> None:
    ran(Counted(), tmp_path)
    with pytest.raises(ValueError, match="of another run, whose n is not this one's"):
        ran(Counted(50), tmp_path)
    other = replace(Counted().study, name="other")
    (tmp_path / "z-counted.json").rename(tmp_path / "z-other.json")
    with pytest.raises(ValueError, match="whose study is not this one's"):
        run(other, cast(Lab, Counted()), tmp_path, lambda line: None)


def test_values_are_plain() -> None:
    found = plain(
        {"clip": {"fid": Estimate(1, 0.5, 1.5)}, "exact": Rate(0, 0), "explained": 0.5}
    )  # fmt: skip
    assert found == {
        "clip fid": {"value": 1, "interval": [0.5, 1.5]},
        "exact": {"value": None, "interval": [0.0, 1.0], "count": 0},
        "explained": {"value": 0.5},
    }


def test_rows_are_read() -> None:
    rows = [
        {"setting": {"model": name}, "values": plain({"fid": Estimate(x, x - 1, x + 1)})}
        for name, x in (("a", 5.0), ("b", 2.0), ("c", 4.5))
    ]
    assert number(having(rows, model="b")[0], "fid") == 2
    assert best(rows, "fid")["setting"] == {"model": "a"}
    assert best(rows, "fid", most=False)["setting"] == {"model": "b"}
    assert apart(rows[0], rows[1], "fid")
    assert not apart(rows[0], rows[2], "fid")
    assert said(rows[1], "fid") == "2 (1 to 3)"
    assert number(rows[0], "kid") != number(rows[0], "kid")
    assert bounds({"setting": {}, "values": {"x": {"value": 3.0}}}, "x") == (3.0, 3.0)
