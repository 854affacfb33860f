"""Some hundred hostile inputs (`make fuzz`: thousands), and that the fuzz sees what is wrong."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fuzz import attempt
from tests.fuzz.case import Case

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")


@pytest.mark.slow
def test_hostile_inputs_are_used_or_refused_in_a_sentence() -> None:
    words = [sys.executable, "-m", "tests.fuzz.run", "-n", "240", "--jobs", "2"]
    root = Path(__file__).parents[2]
    run = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def _refuse(sentence: str) -> None:
    raise ValueError(sentence)


def _memory() -> None:
    _refuse(str(len(bytes(8 * 2**30))))


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (lambda: print("made"), ""),
        (lambda: _refuse("a sentence"), ""),
        (lambda: _refuse("two\nlines"), "2 lines instead of a sentence"),
        (lambda: _refuse("x" * 5000), "a sentence of 5,008 characters"),
        (lambda: 1 / 0, "exit 1"),
        (lambda: sys.exit(0), "exit 1"),
        (lambda: print("\x1b[2J"), "control characters"),
        (lambda: Path(".x.png.partial").mkdir(), "leaves .x.png.partial"),
        (lambda: Path("input").write_text("changed"), "changes input"),
        (lambda: (Path("x").touch(), _refuse("no")), "leaves x after a refusal"),
        (lambda: os.abort(), "SIGABRT"),
        (_memory, "exit 1"),
        (lambda: [None for _ in iter(int, 1)], "too slow"),
        (lambda: time.sleep(60), "hangs"),
    ],
)
def test_faults_are_seen(
    call: Callable[[], Any], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "SECONDS", 1)

    def make(random: Random, place: Path, good: Any) -> Case:
        Path(place, "input").write_text("good")
        return Case("", call=call)

    child = attempt.start(make, Random(0), None, tmp_path)  # type: ignore[arg-type]
    _, status = os.waitpid(child, 0)
    faults = attempt.ended(tmp_path, status).faults
    assert fault in faults if fault else not faults
