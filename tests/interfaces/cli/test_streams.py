"""Streams of any encoding, closed ones, and ones that nobody reads."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from unclip.interfaces.cli import main, streams

ENCODINGS = ["utf-8", "cp1252", "cp437", "latin-1", "ascii", "utf-16", "cp932", "koi8-r"]
SAID = "3×2 … θ → 5 ± 1, 日本 ✓\n"


class Terminal(io.TextIOWrapper):
    """A terminal of some encoding, as Python opens it."""

    def __init__(self, encoding: str, newline: str = "\n") -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding=encoding, errors="strict", newline=newline)

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("words", [["--help"], ["generate", "--help"], ["blend", "--steps", "→"]])
def test_any_encoding(encoding: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Terminal(encoding), Terminal(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(words) == (2 if "blend" in words else 0)
    said = (err if "blend" in words else out).bytes.getvalue().decode(encoding)
    assert "unclip" in said
    assert "\x1b" not in said
    assert sys.stdout is out


def test_plainer_characters() -> None:
    assert streams.fitting(SAID, "ascii") == "3x2 ... theta -> 5 +- 1, ?? ?\n"
    assert streams.fitting(SAID, "cp1252") == "3×2 … theta -> 5 ± 1, ?? ?\n"
    assert streams.fitting(SAID, "utf-8") == SAID


def test_line_ends_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal("cp1252", newline="\r\n")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["--version"]) == 0
    assert out.bytes.getvalue().endswith(b"\r\n")
    assert out.bytes.getvalue().count(b"\r") == 1


@pytest.mark.parametrize(("encoding", "bar"), [("ascii", "#"), ("cp437", "#"), ("utf-8", "█")])
def test_bars(encoding: str, bar: str, monkeypatch: pytest.MonkeyPatch) -> None:
    err = Terminal(encoding)
    monkeypatch.setattr(sys, "stderr", err)
    with streams.standard_streams(), streams.progress_bar(2) as shown:
        shown.update(2)
        shown.refresh()
    said = err.bytes.getvalue().decode(encoding)
    assert bar in said
    assert said.startswith("\r")  # drawn over itself, not below
    assert "\\r" not in said


CLOSED = """
import os, sys
from types import SimpleNamespace
from unclip.interfaces import cli

def run(words):
    with open(words[0], "w") as file:
        print("to nobody", flush=True)
        print("to nobody either", file=sys.stderr, flush=True)
        sys.stdin.read()
        file.write("mine")
    return 0

cli.importlib.import_module = lambda name: SimpleNamespace(run=run)
sys.exit(cli.main(["doctor", sys.argv[1]]))
"""


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell closes the streams")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-", "1</dev/null"])
def test_closed_streams(closed: str, tmp_path: Path) -> None:
    """The command succeeds, and nothing of what it says lands in a file of its own."""
    file = tmp_path / "file"
    shell = f'"$0" -c "$1" "$2" {closed}'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable, CLOSED, str(file)],
        capture_output=True, check=False, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, file.read_text()) == (0, "mine"), done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full")
def test_a_stream_without_room_is_said() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "unclip", "--help"],
            stdout=full, stderr=subprocess.PIPE, check=False, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "unclip: the standard output: the disk is full; make room, or write to another one\n"
    )


def test_a_reader_that_has_seen_enough() -> None:
    """`unclip generate --help | head -1` ends without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "unclip", "generate", "--help"],
        stdout=writer, stderr=subprocess.PIPE, check=False, text=True,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_warnings_of_pillow_are_not_printed_and_others_are() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with streams.standard_streams():
            for module in ("PIL.TiffImagePlugin", "torch.nn"):
                warnings.warn_explicit("corrupt", UserWarning, f"{module}.py", 1, module)
    assert [one.filename for one in said] == ["torch.nn.py"]
