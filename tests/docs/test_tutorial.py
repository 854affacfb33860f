"""docs/tutorial.md: its programs and commands, run in their order at a tiny size."""

import shutil
from pathlib import Path

import pytest

from tests.docs.commands import blocks, commands, smaller
from unclip.interfaces.cli import main
from unclip.storage.folder import bundled

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
IMAGES = "range(600)"
_TRAINING = "--training.steps 2 --training.batch-size 4 --training.precision fp32"
SMALLER = {
    # what a command begins with: the flags that it gets, in place of its own of the same names
    "train": _TRAINING,
    "generate": "-n 1 --prior-steps 2 --decoder-steps 2 --super-res-steps 1",
    "vary": "-n 1 --decoder-steps 2 --super-res-steps 1",
    "edit": "--decoder-steps 2 --super-res-steps 1",
    "evaluate fid": "-n 2",
    "evaluate clip": "-n 4",
}


def test_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not bundled("model").is_dir():
        pytest.skip("no model is bundled")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    ran = []
    for language, body in blocks(TUTORIAL):
        if language == "python":
            program = body.replace(IMAGES, "range(60)")
            exec(compile(program, "tutorial.md", "exec"), {})
        if language != "sh":
            continue
        for program, *words in commands(body):
            if program == "export":
                continue
            assert program == "unclip"
            assert main(smaller(words, SMALLER)) == 0, (words, capsys.readouterr().err)
            ran.append(words[0])
    assert IMAGES in TUTORIAL
    assert ran.count("train") == 1
    assert {"generate", "vary", "edit", "evaluate"} <= set(ran)
