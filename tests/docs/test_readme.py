"""The README's commands, executed in their order in an empty folder.

Training is scaled down by the flags in `SMALLER`; nothing else is changed. What needs the bundled
model runs where it is bundled, and with a tiny one in its place where it is not.
"""

import re
from pathlib import Path

import pytest

from tests.conftest import captioned_folder
from tests.docs.commands import blocks, commands, smaller
from tests.tiny import tiny_recipes
from unclip.interfaces.cli import main
from unclip.outputs.images import read_info
from unclip.storage.folder import ModelFolder, bundled
from unclip.words import read_vocabulary

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

_TRAINING = "--training.steps 2 --training.batch-size 4 --training.precision fp32 --data.workers 0"
SMALLER = {
    # what a command begins with: the flags that are put behind it
    "train all": "--recipe tiny.toml --no-tune",
    "train clip": f"{_TRAINING} --data.size 32 --network.size tiny --network.vocab-size 560",
    "train prior": f"{_TRAINING} --data.size 32 --network.num-layers 1 --network.statistics 16 "
    "--network.num-attention-heads 2 --network.attention-head-dim 16",
    "train decoder": f"{_TRAINING} --data.size 32",  # its sizes are the bundled one's
    "train upsampler": f"{_TRAINING} --network.widths 16 32 --network.groups 8",
    "evaluate clip": "-n 16",
    "evaluate composition": "-n 2 --trust --steps fast",
    "evaluate edits": "-n 2 --trust --theta 0.3 --invert-steps 2 --steps fast",
    "evaluate inpainting": "-n 2 --trust --steps fast --resamples 1",
    "evaluate fid": "-n 2 --steps fast",
    "evaluate diversity": "-n 2 --steps fast",
    "tune": "-n 4 --budget 5s",
    "data emoji": "--rows 1 --columns 2",
    "generate": "--prior-steps 2 --decoder-steps 2 --super-res-steps 1",
    "vary": "--decoder-steps 2 --super-res-steps 1",
    "invert": "--steps 3",
    "blend": "--invert-steps 2 --super-res-steps 1",
    "edit": "--invert-steps 2 --super-res-steps 1",
    "decode": "--decoder-steps 2 --super-res-steps 1",
    "inpaint": "--prior-steps 2 --decoder-steps 2 --super-res-steps 1 --resamples 1",
    "upscale": "--super-res-steps 1",
}


def test_it_says_what_the_bundled_model_knows() -> None:
    assert f"({read_vocabulary(bundled('model') / 'tokenizer')})" in " ".join(README.split())


def with_model(words: list[str], model: Path) -> list[str]:
    """The tiny model where the bundled one is meant, but is not there."""
    positional = [word for word in words if not word.startswith("-")]
    asks = words[0] in ("generate", "evaluate") or positional == ["info"]
    if not asks or "--model" in words or bundled("model").is_dir():
        return words
    return [*words, str(model)] if words[0] == "info" else [*words, "--model", str(model)]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands(elsewhere: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captioned_folder(elsewhere / "my-images", 16, size=64)
    tiny_recipes(elsewhere / "tiny.toml")
    makefile = (ROOT / "Makefile").read_text()
    ran = []
    shell = "".join(body for kind, body in blocks(README) if kind in ("sh", "console"))
    for program, *words in commands(shell):
        if program == "make":
            assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words)
            continue
        if program == "pip":
            assert words[0] == "install"  # of what: tests/docs/test_kit.py
            continue
        assert program == "unclip", f"the README's {program!r} is not known to this test"
        if (
            words[0] == "evaluate"
            and words[1] in ("composition", "edits", "inpainting")
            and not bundled("judge").is_dir()
        ):
            continue  # no judge is bundled yet
        words = with_model(smaller(words, SMALLER), tiny_model)
        assert main(words) == 0, (words, capsys.readouterr().err)
        ran.append(words[0])
    assert ran.count("train") == 6
    assert ModelFolder(Path("models/mine")).has("super_res_first")
    assert {"generate", "info"} <= set(ran)


def test_python(elsewhere: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import unclip.pipeline.loading as loading

    if not bundled("model").is_dir():
        monkeypatch.setattr(loading, "bundled", lambda name: tiny_model)
    programs = [body for kind, body in blocks(README) if kind == "python"]
    assert programs
    for program in programs:
        exec(compile(program, "README.md", "exec"), {})


def test_make_demo(elsewhere: Path) -> None:
    """The command of `make demo` itself, where the model is bundled."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^demo:.*\n\t\$\(BIN\)/unclip (.*)$", makefile, re.MULTILINE)
    (words,) = commands(line)
    assert words[0] == "generate"
    assert "out/demo.png" in words
    if not bundled("model").is_dir():
        pytest.skip("no model is bundled yet")
    assert main(smaller(words, SMALLER)) == 0
    notes = read_info(Path("out/demo.png"))
    assert len(notes["prompt"]) == notes["n"] == 4
