"""`unclip tune`, and what `unclip info` says of it."""

from pathlib import Path

import pytest

from tests.interfaces.cli.test_cli import Capture, refused
from unclip.diffusion.registry import SAMPLERS
from unclip.evaluation.studies import tuning
from unclip.interfaces.cli import main
from unclip.pipeline.settings import PRESETS, Preset
from unclip.storage.folder import ModelFolder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"steps": 2}
    monkeypatch.setitem(PRESETS, "default", Preset(few, few, few, few))
    monkeypatch.setattr(tuning, "SCALES", (1.0,))
    monkeypatch.setattr(tuning, "CANDIDATES", (1, 2))
    monkeypatch.setattr(tuning, "SAMPLERS", {name: SAMPLERS[name] for name in ("ddpm", "ddim")})


def test_tuning_is_told_written_and_described(
    quick: None, tiny_copy: Path, captioned: Path, capsys: Capture
) -> None:
    words = ["tune", str(tiny_copy), "--data", str(captioned), "-n", "4", "--device", "cpu"]
    before = ModelFolder(tiny_copy).index()
    assert main(["info", str(tiny_copy)]) == 0
    assert "as the published models, as this one says nothing" in capsys.readouterr().out
    assert main([*words, "--dry-run", "--budget", "none"]) == 0
    assert ModelFolder(tiny_copy).index() == before
    out = capsys.readouterr().out
    assert "decoder guidance 1 " in out
    assert f" in {tiny_copy}" not in out
    assert main([*words, "--budget", "none"]) == 0
    assert f" in {tiny_copy}" in capsys.readouterr().out  # written, or noted
    assert main(["info", str(tiny_copy)]) == 0
    out = capsys.readouterr().out
    assert "no guidance, 2 steps" in out
    assert "on 4 captions of a folder, all: " in out
    ModelFolder(tiny_copy).update_index({"_defaults": {"decoder_guidance_scale": 3.0}})
    assert main(["info", str(tiny_copy)]) == 0
    assert "of it changed since" in capsys.readouterr().out


def test_what_makes_no_sense_is_refused(tiny_model: Path, capsys: Capture) -> None:
    for budget in ("0", "0s", "-5m", "soon", "nan"):
        said = refused(["tune", str(tiny_model), f"--budget={budget}"], capsys)
        assert "give a time such as 90s, 30m, 1h" in said
    assert "does not say what it was trained on" in refused(["tune", str(tiny_model)], capsys)
    assert "part of the package and stays as it is" in refused(["tune", "bundled"], capsys)
    assert "Hub's cache" in refused(["tune", "hf:owner/model"], capsys)
    assert "-n" in refused(["tune", str(tiny_model), "-n", "0"], capsys)
    assert "-n is 3; it must be 4 or more" in refused(["tune", str(tiny_model), "-n", "3"], capsys)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    tiny_model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", closed)
    monkeypatch.setattr(tuning, "tune", None)
    words = ["tune", str(tiny_model), "--data", "emoji:shapes"]
    assert "cannot write into the folder" in refused(words, capsys)
