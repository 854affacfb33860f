"""The command line itself: help, exit codes, and one sentence for every mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unclip import __version__
from unclip.interfaces import cli
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
        ("generate x --seeds 3", "Unrecognized options: --seeds, 3; perhaps you meant --seed INT"),
        ("generate x -n many", "-n/--n: invalid literal for int()"),
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


def test_other_errors_of_the_system_are_one_line(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise OSError(28, "No space left on device", "some/file")

    monkeypatch.setattr(cli.importlib, "import_module", fail)
    assert refused(["doctor"], capsys) == "some/file: No space left on device"


def test_ctrl_c(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.importlib, "import_module", stop)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_has_seen_enough() -> None:
    """`unclip generate --help | head -1` ends without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "unclip.interfaces.cli", "generate", "--help"],
        stdout=writer, stderr=subprocess.PIPE, check=False, text=True,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor(capsys: Capture) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("torch", "would use", "emoji font", "bundled model", "GFLOP/s"):
        assert word in said


def test_data_preview(tmp_path: Path, capsys: Capture) -> None:
    sheet = tmp_path / "new" / "world.png"
    words = ["--kinds", "shapes", "--rows", "1", "--columns", "2", "--size", "32"]
    assert main(["data", "emoji", *words, "--preview", str(sheet)]) == 0
    assert Image.open(sheet).format == "PNG"
    assert str(sheet) in capsys.readouterr().out
    assert "does not end in .png" in refused(["data", "emoji", "--preview", "x.gif"], capsys)
    words = ["data", "emoji", "--rows", "0", "--preview", str(tmp_path / "y.png")]
    assert "at least 1 row" in refused(words, capsys)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_sentences_in_any_terminal(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unclip.interfaces.cli", "generate", "--seeds", "3"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert done.stderr == (
        "unclip: Unrecognized options: --seeds, 3; perhaps you meant --seed INT "
        "(see unclip generate --help)\n"
    )
    assert (done.returncode, done.stdout) == (2, "")
