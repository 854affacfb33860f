"""benchmarks/ladder.py on few scenes: what damages do, and that metrics which should notice do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unclip.evaluation.features.extractor import open_extractor
from unclip.evaluation.intervals import Estimate

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import ladder

    return ladder


def test_damages_do_what_they_say(script: Any) -> None:
    scenes = script.Scenes.of(20, 32)
    clean = scenes.render(scenes.scenes)

    def made(name: str, step: int) -> Any:
        pixels = script.DAMAGES[name](scenes, clean, step)
        assert pixels.shape == clean.shape
        assert pixels.dtype == np.uint8
        return pixels

    def detail(pixels: Any) -> float:
        return float(np.abs(np.diff(pixels.astype(float), axis=2)).mean())

    assert detail(clean) > detail(made("blur", 0)) > detail(made("blur", 2))
    assert np.ptp(made("colour", 2), axis=3).max() == 0
    errors = [np.abs(made("jpeg", k).astype(int) - clean).mean() for k in range(3)]
    assert 0 < errors[0] < errors[1] < errors[2]
    changed = (made("swap", 1) != clean).any(axis=(1, 2, 3))
    assert changed[:10].sum() >= 8  # some objects have one colour
    assert not changed[10:].any()
    assert (made("drop", 2) != clean).any(axis=(1, 2, 3)).all()
    assert len(np.unique(made("collapse", 1), axis=0)) == 2
    assert (made("copies", 0)[:5] == scenes.render(scenes.training[:5])).all()
    assert scenes.captions("copies", 0)[:6] == [
        *(one.caption for one in scenes.training[:5]), scenes.scenes[5].caption,
    ]  # fmt: skip


def test_a_ladder_of_three_damages(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    extractor = open_extractor("clip", device="cpu")
    found = script.ladder([extractor], script.Scenes.of(60, 32), ["colour", "collapse", "swap"])
    rows = found["clip"]
    assert list(rows)[:2] == ["none", "colour 1"]
    table = script.summary(rows, ["colour", "collapse", "swap"]).split("\n")
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in table}
    where = dict(zip(rows["none"], range(9), strict=True))
    assert cells["colour"][where["FID"]] in "12"
    assert cells["collapse"][where["recall"]] in "123"
    assert cells["collapse"][where["precision"]].strip(" |") == "-"
    assert cells["swap"][where["FID"]] == "-"
    assert "| none |" in script.table(rows)


def test_what_is_noticed(script: Any) -> None:
    def estimates(*values: float) -> list[Estimate]:
        return [Estimate.of(value, 0.5) for value in values]

    clean = Estimate.of(10.0, 0.5)
    for values, better, says in (
        ((10.1, 12.0, 15.0), script.LOWER, "2"),
        ((10.1, 9.9, 10.0), script.LOWER, "-"),
        ((15.0, 12.0, 15.0), script.LOWER, "1, not monotone"),
        ((9.0, 8.0, 5.0), script.HIGHER, "2"),
        ((9.0, 8.0, 5.0), script.LOWER, "better"),
    ):
        assert script.noticed(clean, estimates(*values), better) == says
