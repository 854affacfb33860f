"""Every number of every command is a number with bounds, or refused before a model is opened."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.interfaces.cli.test_cli import Capture, refused
from unclip.interfaces.cli import main

REQUESTS = {
    "generate": ["x"],
    "upscale": ["a.png"],
    "vary": ["a.png"],
    "blend": ["a.png", "a.png"],
    "edit": ["a.png", "--to", "x"],
    "inpaint": ["a.png", "x", "--box", "0,0,9,9"],
    "probe": ["a.png"],
    "invert": ["a.png"],
    "data": ["emoji", "--preview", "p.png"],
    "data inspect": ["emoji"],
    "data index": ["wds:s"],
    "evaluate clip": [],
    "evaluate diversity": [],
    "evaluate guidance": [],
    "evaluate reconstruction": [],
    "evaluate upsampling": [],
    "evaluate edits": [],
    "evaluate inpainting": [],
    "train clip": ["--model", "m"],
}
SEEDS = ("seed", "world.seed", "training.seed", "data.seed")


@pytest.mark.parametrize("command", REQUESTS)
def test_every_flag(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def not_opened(*_: object, **__: object) -> None:
        raise AssertionError("a model was opened, or a run started")

    for place in (
        "pipeline.pipeline.Pipeline.from_pretrained",
        "training.start.start",
    ):
        monkeypatch.setattr(f"unclip.{place}", not_opened)
    monkeypatch.setattr("unclip.stages.conditioning.FrozenCLIP.load", not_opened)
    monkeypatch.setattr("unclip.evaluation.judge.network.load_judge", not_opened)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40)).save("a.png")
    words = [*command.split(), *REQUESTS[command]]
    assert main([*words, "--help"]) == 0
    flags = dict(re.findall(r"--([a-z][\w.-]*) (N|X)\b", capsys.readouterr().out))
    assert flags
    for flag, kind in flags.items():
        values = ["many"] * (2 if flag == "guidance-interval" else 1)
        said = refused([*words, f"--{flag}", *values], capsys)
        wanted = "whole number" if kind == "N" else "number"
        assert f"--{flag}: 'many' is not a {wanted} (see unclip {command} --help)" in said
        if kind == "N" and flag not in SEEDS and not command.startswith("train"):
            refused([*words, f"--{flag}", "1000000000"], capsys)
    flag = next(flag for flag, kind in flags.items() if kind == "N")
    assert len(refused([*words, f"--{flag}", "9" * 100_000], capsys)) < 300


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**64 - 1])
def test_any_seed_of_64_bits(
    seed: int, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--model", str(tiny_model), "--precision", "fp32", "--size", "16"]
    steps = ["--decoder-steps", "1", "--prior-steps", "1"]
    assert main(["generate", "x", "-n", "2", f"--seed={seed}", *words, *steps]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_lists_of_numbers_have_a_length(capsys: Capture) -> None:
    words = ["evaluate", "edits", "--theta"]
    assert "it takes 1 to 64 values, not 0" in refused(words, capsys)
    assert "it takes 1 to 64 values, not 100" in refused([*words, *["0.3"] * 100], capsys)
    assert "it takes 1 to 64 values, not 65" in refused(
        ["probe", "a.png", "--components", *["3"] * 65], capsys
    )
