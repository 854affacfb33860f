"""The table of sizes in docs/training.md is what the command beside it prints."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_table_is_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import sizes

    assert sizes.table() in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
