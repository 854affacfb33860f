"""docs/evaluation.md: its example runs as it stands."""

import re
from pathlib import Path

import pytest

from tests.conftest import captioned_folder

TEXT = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    captioned_folder(tmp_path / "real", 14)
    captioned_folder(tmp_path / "made", 12, 40)
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(block, "docs/evaluation.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert all(" to " in line for line in said)
