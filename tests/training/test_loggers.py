"""Where a run's numbers go: TensorBoard as it is, and a logger that a program adds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from tests.tiny import tiny_recipe
from unclip.stages.catalogue import STAGES
from unclip.training import loggers
from unclip.training.job import Folders
from unclip.training.loggers import LOGGERS, About, Kind, check_loggers
from unclip.training.start import start


class Recorder:
    """A logger that remembers what it was given."""

    made: ClassVar["list[Recorder]"] = []

    def __init__(self, about: About) -> None:
        self.about, self.closed = about, False
        self.lines: list[tuple[int, Mapping[str, float]]] = []
        self.pictures: list[tuple[int, Image.Image]] = []
        self.made.append(self)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.lines.append((step, values))

    def picture(self, step: int, picture: Image.Image) -> None:
        self.pictures.append((step, picture))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setitem(LOGGERS, "recorder", Kind(Recorder))
    monkeypatch.setattr(Recorder, "made", [])
    return Recorder


def test_a_logger_of_ones_own_and_tensorboard_get_what_the_file_gets(
    recorder: type[Recorder], tmp_path: Path
) -> None:
    given: dict[str, Any] = {
        "steps": 4, "log_every": 2, "preview_every": 4, "loggers": ["recorder", "tensorboard"],
    }  # fmt: skip
    recipe = tiny_recipe("upsampler", training=given)
    where = Folders(tmp_path / "mine", tmp_path / "run")
    assert start(STAGES["upsampler"], recipe, where, "cpu") == 0
    (made,) = recorder.made
    assert made.closed
    assert (made.about.path, made.about.stage, made.about.model) == (where.run, "upsampler", "mine")
    assert (made.about.recipe or {})["training"]["steps"] == 4
    file = [json.loads(line) for line in (where.run / "metrics.jsonl").read_text().splitlines()]
    assert [{"step": step, **values} for step, values in made.lines] == file
    assert {"operations_per_second", "share_of_peak", "memory_gib"} <= set(file[-1])
    assert 0 <= file[-1]["waiting_for_data"] <= 1
    assert [step for step, _ in made.pictures] == [4]

    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(where.run / "tensorboard"))
    board.Reload()
    told = {name: board.Scalars(name)[-1].value for name in board.Tags()["scalars"]}
    assert told == pytest.approx({k: v for k, v in file[-1].items() if k != "step"}, rel=1e-5)
    assert [event.step for event in board.Images("preview")] == [4]


def test_what_is_missing_or_unknown_is_said_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(LOGGERS, "wandb", Kind(LOGGERS["wandb"].make, "no_such_package"))
    recipe = tiny_recipe("upsampler", training={"loggers": ["wandb"]})
    with pytest.raises(ValueError, match=r"asks for wandb, which is not installed: pip install"):
        start(STAGES["upsampler"], recipe, Folders(tmp_path / "model", tmp_path / "run"), "cpu")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="unknown logger 'wandbb'; did you mean 'wandb'"):
        check_loggers(["wandbb"])


def test_without_tensorboard_a_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOGGERS, "tensorboard", Kind(Recorder, "no_such_package", needed=False))
    check_loggers(["tensorboard"])
    assert loggers.loggers_of(["tensorboard"], About(Path(), 0)) == []


def test_a_run_at_wandb_keeps_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Against a stand-in of the package's own shape."""
    import sys
    import types

    asked: list[dict[str, Any]] = []
    given: list[tuple[dict[str, Any], int]] = []
    run = types.SimpleNamespace(
        log=lambda values, step: given.append((values, step)), finish=lambda: given.append(({}, -1))
    )
    package = types.ModuleType("wandb")
    package.init = lambda **more: asked.append(more) or run  # type: ignore[attr-defined]
    package.Image = lambda picture: ("image", picture.size)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    for first in (0, 5):
        logger = LOGGERS["wandb"].make(About(tmp_path, first, "prior", "mine", {"a": {"b": 1}}))
        logger.scalars(first + 1, {"loss": 0.5})
    logger.picture(6, Image.new("RGB", (2, 3)))
    logger.close()
    assert asked[0] == asked[1]
    assert (asked[0]["project"], asked[0]["name"]) == ("unclip", "mine/prior")
    assert asked[0]["config"] == {"a": {"b": 1}}
    assert given == [({"loss": 0.5}, 1), ({"loss": 0.5}, 6), ({"preview": ("image", (2, 3))}, 6),
                     ({}, -1)]  # fmt: skip
