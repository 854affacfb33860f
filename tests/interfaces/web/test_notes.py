"""Notes of PNGs as a form has them, and those that make no sense."""

from pathlib import Path
from typing import Any

import pytest

from tests.interfaces.server.conftest import Served, picture
from unclip.interfaces.web.notes import notes_of
from unclip.outputs.images import save_png


def written(path: Path, **info: Any) -> Path:
    save_png(picture(8), path / "it.png", info)
    return path / "it.png"


def test_of_a_caption(served: Served, tmp_path: Path) -> None:
    settings = {
        "decoder_num_inference_steps": 3,
        "precision": "fp32",
        "guidance_interval": [0.5, 2],
    }
    notes = notes_of(
        written(tmp_path, prompt="a star", seed=7, n=3, settings=settings, model=served.desk.model),
        served.desk,
    )
    assert notes.tab == "generate"
    assert notes.values["generate.prompt"] == "a star"
    assert notes.values["generate.n"] == 3
    assert notes.values["seed"] == "7"
    assert notes.values["decoder_num_inference_steps"] == "3"
    assert notes.values["guidance_interval"] == "0.5 2.0"
    assert notes.values["sampler"] == ""
    assert "which is not the one" not in notes.said


@pytest.mark.parametrize(
    ("command", "values"),
    [
        (["vary", "a.png", "-n", "3", "--seed", "5"], {"vary.n": 3, "seed": "5"}),
        (["blend", "a.png", "b.png", "--frames", "4", "--invert"],
         {"blend.frames": 4, "blend.invert": True}),
        (["--revision", "abc", "edit", "a.png", "--to", "-x", "--theta", "0.3"], None),
        (["edit", "a.png", "--to", "y", "--from", "x", "--theta", "0.3"],
         {"edit.to": "y", "edit.from": "x", "edit.theta": 0.3, "edit.frames": 1}),
        (["inpaint", "a.png", "m.png", "a star"], {"inpaint.prompt": "a star"}),
        (["invert", "a.png", "--steps", "7"], {"invert.steps": 7}),
        (["upscale", "a.png", "--size", "256"], {"upscale.longer": "256"}),
        (["probe", "a.png", "--components", "2", "4"], {"probe.components": "2 4"}),
    ],
)  # fmt: skip
def test_of_commands(
    served: Served, tmp_path: Path, command: list[str], values: dict[str, Any] | None
) -> None:
    file = written(tmp_path, command=command, seed=0)
    if values is None:
        with pytest.raises(ValueError, match="to"):
            notes_of(file, served.desk)
        return
    notes = notes_of(file, served.desk)
    assert values.items() <= notes.values.items()
    assert notes.said.count(". ") <= 1


@pytest.mark.parametrize(
    "info",
    [
        {"command": []}, {"command": "vary"}, {"command": [1]}, {"command": ["train", "x"]},
        {"command": ["compare"]}, {"command": ["generate", "a star"]},
        {"prompt": "a \ud800"}, {"command": ["edit", "a.png", "--to", "\ud800"]},
        {"command": ["vary", "--help"]}, {"command": ["vary", "--seed", "x"]}, {"prompt": 5},
        {"command": ["--revision"]}, {"prompt": "a", "settings": {"sampler": "none"}},
        {"prompt": "a", "settings": [1]}, {},
    ],
)  # fmt: skip
def test_damaged_ones_are_a_sentence(served: Served, tmp_path: Path, info: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        notes_of(written(tmp_path, **info), served.desk)


def test_a_picture_without_notes(served: Served, tmp_path: Path) -> None:
    picture(8).save(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"^none\.png does not say"):
        notes_of(tmp_path / "none.png", served.desk)
