"""What a run writes down, and what it makes of lines that are there already."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.training.log import RunLog
from unclip.training.loggers import About
from unclip.training.run import forget

PICTURE = torch.zeros(1, 1, 3, 4, 4)


def test_metrics_of_a_cut_off_run_end_where_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}\n\xff\n{"step": 3}\n{"st')
    RunLog(About(tmp_path, 2)).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize(
    "line",
    [b'{"step": Infinity}', b'{"step": 1e400}', b"[" * 100_000, b'{"step": NaN}', b" " * 2**21],
)
def test_lines_of_others_are_no_metrics(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    RunLog(About(tmp_path, 2)).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("name", ["metrics.jsonl", "previews", "tensorboard"])
@pytest.mark.parametrize("there", [True, False])
def test_planted_links_are_not_followed(name: str, there: bool, tmp_path: Path) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    run.mkdir()
    if there:
        precious.mkdir() if name != "metrics.jsonl" else precious.write_text("mine")
    log = RunLog(About(run, 0))  # before the link is planted
    log.close()
    shutil.rmtree(run / "tensorboard", ignore_errors=True)
    (run / name).symlink_to(precious)
    with pytest.raises(ValueError, match=rf"{name}: it is a link; remove it"):
        RunLog(About(run, 0))
    if name != "tensorboard":  # whose folder is opened once
        with pytest.raises(ValueError, match="it is a link"):
            log.scalars(1, {}) if name == "metrics.jsonl" else log.pictures(1, PICTURE)
    assert precious.exists() == there
    assert (
        not there
        or (precious.is_dir() and not list(precious.iterdir()))
        or (precious.read_text() == "mine")
    )
    forget(run)
    assert not (run / name).is_symlink()
    assert precious.exists() == there


def test_captions_stand_above_their_columns(tmp_path: Path) -> None:
    log = RunLog(About(tmp_path / "run", 0))
    log.pictures(1, PICTURE)
    log.pictures(2, PICTURE, ["a red star", "of a column that is not there"])
    plain, told = (
        Image.open(tmp_path / "run" / "previews" / f"step-0000000{step}.png") for step in (1, 2)
    )
    assert told.height > plain.height
    head = np.asarray(told.convert("L").crop((0, 0, told.width, told.height - plain.height)))
    assert (head < 128).any()


def test_a_preview_of_large_images_is_no_larger_than_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unclip.training.log._PIXELS", 50 * 50 * 8)
    RunLog(About(tmp_path / "run", 0)).pictures(1, PICTURE.expand(2, 4, 3, 4, 4))
    with Image.open(next((tmp_path / "run" / "previews").iterdir())) as picture:
        assert 4 * 50 < picture.width < 5 * 60
