"""What a run writes down, and what it makes of lines that are there already."""

from pathlib import Path

import pytest

from unclip.training.log import RunLog


def test_metrics_of_a_cut_off_run_end_where_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}\n\xff\n{"step": 3}\n{"st')
    RunLog(tmp_path, 2).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize(
    "line",
    [b'{"step": Infinity}', b'{"step": 1e400}', b"[" * 100_000, b'{"step": NaN}', b" " * 2**21],
)
def test_lines_of_others_are_no_metrics(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    RunLog(tmp_path, 2).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n'
