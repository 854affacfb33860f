"""The command line itself: help, and one sentence for every mistake."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unclip import __version__
from unclip.interfaces.cli import COMMANDS, main

Capture = pytest.CaptureFixture[str]


def refused(words: list[str], capsys: Capture) -> str:
    """The one line that a mistake is answered with."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("unclip: ")
    return lines[0].removeprefix("unclip: ")


def test_help_names_every_command(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)
    assert main([]) == 2  # nothing was asked for


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"unclip {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: Capture) -> None:
    assert main([name, "--help"]) == 0
    assert f"unclip {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("genrate x", "unknown command 'genrate'; did you mean 'generate'?"),
        ("generate", "there is no prompt"),
        ("generate x --model", "Missing value for argument '--model'"),
        ("generate x --seeds 3", "Unrecognized options: --seeds, 3; perhaps you meant --seed N"),
        ("generate x -n many", "-n/--n: 'many' is not a whole number"),
        ("train decoder --model m --network.widths 16,32", "separate several by spaces"),
        ("generate x --steps quick", "invalid choice 'quick' for argument '--steps'"),
        ("generate x --device abacus", "abacus"),
        ("data emoji", "--preview PATH"),
        ("data photos --preview x.png", "photos"),
        ("info a b", "Unrecognized options: b"),
        ("train", None),
        ("train cilp", "unknown stage 'cilp'; did you mean 'clip'?"),
        ("train clip", "--model PATH"),
        ("evaluate", None),
        ("evaluate clop", "unknown evaluation 'clop'; did you mean 'clip'?"),
        ("doctor now", "Unrecognized options: now"),
    ],
)
def test_a_mistake_is_one_line(
    command: str, says: str | None, capsys: Capture, tiny_model: Path
) -> None:
    words = [*command.split(), *(["--model", str(tiny_model)] * ("--device" in command))]
    if says is None:  # what there is to choose from, and the exit code of a mistake
        assert main(words) == 2
        assert "usage: " in capsys.readouterr().out
    else:
        assert says in refused(words, capsys)


def test_doctor(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # of networks converted for OpenVINO
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in (
        "torch",
        "threads",
        "would use",
        "emoji font",
        "bundled model",
        "GFLOP/s",
        "engines",
    ):
        assert word in said


def test_data_preview(tmp_path: Path, capsys: Capture) -> None:
    sheet = tmp_path / "new" / "world.png"
    words = ["--kinds", "shapes", "--rows", "1", "--columns", "2", "--size", "32"]
    assert main(["data", "emoji", *words, "--preview", str(sheet)]) == 0
    assert Image.open(sheet).format == "PNG"
    assert str(sheet) in capsys.readouterr().out
    assert "does not end in .png" in refused(["data", "emoji", "--preview", "x.gif"], capsys)
    words = ["data", "emoji", "--rows", "0", "--preview", str(tmp_path / "y.png")]
    assert "--rows: the value is 0" in refused(words, capsys)


def test_a_sheet_has_a_size_that_can_be_drawn(capsys: Capture) -> None:
    words = ["data", "emoji", "--preview", "x.png", "--rows", "64", "--columns", "64"]
    assert "pixels; 100,000,000 is the limit" in refused([*words, "--size", "1024"], capsys)


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unclip", "--version"], capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"unclip {__version__}\n")
