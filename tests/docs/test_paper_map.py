"""The map of the paper: every file that it names exists, and holds the names in brackets."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAP = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
ROWS = [line.strip("|").split(" | ") for line in MAP.splitlines() if line.startswith("| ")]


def test_every_file_exists() -> None:
    files = re.findall(r"`([\w/]+\.(?:py|toml|md))`", MAP)
    assert len(files) > 100
    folders = (ROOT / "src" / "unclip", ROOT / "tests", ROOT)
    assert [name for name in files if not any((f / name).is_file() for f in folders)] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip()[:40])
def test_a_row_names_code_and_tests_of_it(row: list[str]) -> None:
    if row[0].strip() == "what the paper says":
        return
    claim, code, tests = row
    assert claim.strip()
    assert re.fullmatch(r"(`[\w/]+/test_\w+\.py`(, )?)+", tests.strip())
    for name, words in re.findall(r"`([\w/]+\.py)`(?: \(([^)]+)\))?", code):
        text = (ROOT / "src" / "unclip" / name).read_text(encoding="utf-8")
        everywhere = text + (ROOT / "src/unclip/stages/recipe.py").read_text(encoding="utf-8")
        for word in re.findall(r"`([^`]+)`", words):
            last = re.split(r"[. ]", word.replace("optimiser.", ""))[0]
            assert last in everywhere, f"{name} has no {word}"
