"""`--help`: every flag says what it is, and begins with that."""

import re
from itertools import pairwise

import pytest

from tests.interfaces.cli.test_cli import Capture
from unclip.interfaces.cli import main
from unclip.interfaces.cli.commands.train import SPECS

COMMANDS = [
    *(f"train {name}" for name in ("all", *SPECS)),
    "evaluate clip",
    "evaluate fid",
    "evaluate guidance",
    "evaluate reconstruction",
    "borrow",
    "tune",
    "embed",
    "data emoji",
    "data inspect",
    "data index",
    "info",
    "doctor",
]
NO_NOUNS = {"a", "an", "the", "of", "what", "which", "whose", "who", "how", "where", "if", "that"}


def flags(page: str) -> dict[str, str]:
    """Each flag of a page of help, and what is said of it."""
    rows = [line.strip("│ ") for line in page.splitlines() if line.startswith(("│", " "))]
    said = {}
    for row, after in pairwise([*rows, ""]):
        if match := re.match(r"(-[\w-].*?)(?:  +(.*))?$", row):
            said[match[1]] = match[2] or after
    return said


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_begin_with_a_noun(
    command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main([*command.split(), "--help"]) == 0
    said = flags(capsys.readouterr().out)
    assert said.pop("-h, --help")
    wrong = {
        flag: text
        for flag, text in said.items()
        if text.startswith("(default") or text.split()[0].lower().strip(",:") in NO_NOUNS
    }
    assert wrong == {}
