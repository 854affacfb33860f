"""What ends a command: an exit code, and one line that says whose fault it is."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from tests.interfaces.cli.test_cli import Capture
from unclip.interfaces import cli
from unclip.interfaces.cli import main
from unclip.interfaces.cli.commands import doctor

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate"
OF_OURS = "a fault of unclip's, not of your request: "


class Panic(BaseException):
    """As pyo3's PanicException: no Exception."""


def command(monkeypatch: pytest.MonkeyPatch, run: Callable[[list[str]], int]) -> None:
    """Have every command do this."""
    monkeypatch.delenv("UNCLIP_TRACEBACK", raising=False)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: SimpleNamespace(run=run))


def raising(error: BaseException, file: str = doctor.__file__) -> Callable[[list[str]], int]:
    """A command that fails in a file, of unclip's if none is named."""

    def run(words: list[str]) -> int:
        exec(compile("raise error", file, "exec"), {"error": error})
        return 0

    return run


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ValueError("the size is 3;\n it must be even"), 2, "the size is 3; it must be even"),
        (PermissionError(13, "Permission denied", "a/file"), 2, "a/file: Permission denied"),
        (OSError(errno.ENOSPC, "No space left", "a/file"), 2, "a/file: the disk is full"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 2, "there is not enough memory"),
        (MemoryError(), 2, "there is not enough memory for this: lower --batch-size"),
        (RuntimeError(f"{ALLOCATOR} memory: you tried to"), 2, "there is not enough memory"),
        (RuntimeError("MPS backend out of memory"), 2, "there is not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), 2, "there is not enough memory"),
        (RuntimeError("mat1 and mat2"), 1, f"{OF_OURS}RuntimeError: mat1 and mat2"),
        (TypeError("int + str"), 1, f"{OF_OURS}TypeError: int + str"),
        (AssertionError(), 1, f"{OF_OURS}AssertionError: (doctor.py:"),
        (RecursionError("too deep"), 1, f"{OF_OURS}RecursionError: too deep"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), 1, f"{OF_OURS}UnicodeDecodeError"),
        (Panic("called `Option::unwrap()`"), 1, f"{OF_OURS}Panic: called `Option::unwrap()`"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_one_line(
    error: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    command(monkeypatch, raising(error))
    assert main(["doctor", "--flag", "a b"]) == code
    said = capsys.readouterr().err
    assert said.removeprefix("unclip: ").startswith(says)
    assert said.count("\n") == 1
    assert ("It was: unclip doctor --flag 'a b' (unclip " in said) == (code == 1)


def test_a_fault_in_a_file_that_somebody_added_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    command(monkeypatch, raising(KeyError("x"), "/home/me/my_sampler.py"))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("unclip: a fault in /home/me/my_sampler.py, line 1, which is no part of")
    assert "KeyError: 'x'" in said


def test_what_training_lowers(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    command(monkeypatch, raising(MemoryError()))
    assert main(["train", "clip"]) == 2
    assert "--training.accumulation" in capsys.readouterr().err


def test_a_traceback_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    command(monkeypatch, raising(ValueError("bad")))
    monkeypatch.setenv("UNCLIP_TRACEBACK", "1")
    assert main(["doctor"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("ValueError: bad\nunclip: bad\n")


def test_no_value_is_repeated_at_length(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    command(monkeypatch, raising(ValueError(f"{'x' * 100_000} is not a file; {'no ' * 9000}")))
    assert main(["doctor"]) == 2
    said = capsys.readouterr().err
    assert len(said) < 1100
    assert "x is not a file" in said


def test_nothing_that_a_terminal_obeys(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def run(words: list[str]) -> int:
        print("\x1b[2Jcleared\r\x07 \u202e \udcff\tnext")
        raise ValueError("no \x1b]0;title\x07 \u2028")

    command(monkeypatch, run)
    assert main(["doctor"]) == 2
    said = capsys.readouterr()
    assert said.out == "\\x1b[2Jcleared\\r\\x07 \\u202e \\udcff\tnext\n"
    assert said.err == "unclip: no \\x1b]0;title\\x07\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that can be sent")
@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
def test_signals(number: signal.Signals, code: int, says: str) -> None:
    program = (
        "import os, sys; from types import SimpleNamespace; from unclip.interfaces import cli\n"
        "def run(words):\n"
        "    try: os.kill(os.getpid(), int(words[0])); import time; time.sleep(9)\n"
        "    finally: print('cleaned')\n"
        "cli.importlib.import_module = lambda name: SimpleNamespace(run=run)\n"
        f"sys.exit(cli.main(['doctor', '{int(number)}']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "cleaned\n", f"{says}\n")
