"""benchmarks/paper.py and paper_tables.py on tiny models: files that are gone on with, a page."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def ran(script: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    return __import__(script).main()


def test_results_become_a_page(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "bundled").symlink_to(tiny_model, target_is_directory=True)
    common = [
        "--models",
        tmp_path / "models",
        "--out",
        tmp_path / "out",
        "--size",
        16,
        "--processes",
        1,
    ]
    common += ["--device", "cpu", "--precision", "fp32", "--steps", "fast", "--only", "f"]
    assert ran("paper", monkeypatch, *common, "-n", 16, "--dry-run") == 0
    assert "| (f) PCA probing | 11 | 176 |" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert ran("paper", monkeypatch, *common, "-n", 16) == 0
    capsys.readouterr()
    assert ran("paper", monkeypatch, *common, "-n", 16) == 0
    assert "components 64" not in capsys.readouterr().out  # it is there already
    rows = json.loads((tmp_path / "out" / "f-components.json").read_text())["rows"]
    assert rows[-1]["setting"] == {"components": 64}
    assert ran("paper", monkeypatch, *common, "-n", 17) == 2
    assert "of another run, whose n is not this one's" in capsys.readouterr().err
    ran("paper_tables", monkeypatch, "--results", tmp_path / "out", "--docs", tmp_path / "docs")
    page = (tmp_path / "docs" / "paper_tables.md").read_text()
    assert "## (f) PCA probing" in page
    assert "![PCA probing](images/paper-components.png)" in page
    assert page.count("\n| 64 | 100.0 % |") == 1
    assert (tmp_path / "docs" / "images" / "paper-components.png").stat().st_size > 5000


def test_the_page_is_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/paper_tables.md is what `make paper` writes of benchmarks/results/paper."""
    pytest.importorskip("matplotlib")
    ran("paper_tables", monkeypatch, "--docs", tmp_path)
    page = (tmp_path / "paper_tables.md").read_text()
    assert page == (BENCHMARKS.parent / "docs" / "paper_tables.md").read_text()
    assert page.count("\n## (") == 9
