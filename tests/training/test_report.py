"""What is said of a step, and what is kept of it."""

import json
import time
from pathlib import Path

import pytest
import torch

from unclip.stages.recipe import Training
from unclip.training.loggers import About
from unclip.training.report import Rates, Report, line


def test_a_line_is_short() -> None:
    values = {
        "epoch": 0.1057, "loss": 5.3791, "accuracy": 0.015625, "scale": 14.3, "gradient_norm": 1.7,
        "learning_rate": 0.001, "images_per_second": 1234.5, "memory_gib": 0.7,
    }  # fmt: skip
    assert line(1, 237, values, 0.0, 0.0) == "step 1/237  loss 5.379  accuracy 0.01562"
    assert line(50, 237, values, 1234.5, 192.0) == (
        "step 50/237  loss 5.379  accuracy 0.01562  1,234 images/s  3.2 min left"
    )
    values |= {"validation_loss": 5.5, "validation_accuracy": 0.03, "validation_seen_loss": 5.4}
    assert "  held out 5.5 (accuracy 0.03, seen 5.4)  0.12 images/s" in line(
        100, 237, values, 0.12, 0.0
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def report(path: Path, rates: Rates | None = None) -> Report:
    training = Training(steps=100, batch_size=8, log_every=20, loggers=())
    cpu = torch.device("cpu")
    return Report(training, 0, About(path, 0), torch.float32, cpu, rates=rates)


def test_rates_follow_from_images_a_second(tmp_path: Path, clock: list[float]) -> None:
    told = report(tmp_path, Rates(operations=100.0, peak=16_000.0))
    clock[0] = 2.0
    told.step(20, {"loss": 1.0}, 1e-3)
    told.close()
    (kept,) = (json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert kept["images_per_second"] == 80
    assert kept["operations_per_second"] == 8000
    assert kept["share_of_peak"] == 0.5
    assert kept.get("memory_gib", 1) > 0


def test_a_run_that_waits_for_its_images_says_so_once(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    told = report(tmp_path)
    for number, (share, takes) in enumerate([(0.9, 1.0), (0.4, 60.0), (0.6, 60.0), (0.9, 60.0)]):
        clock[0] += takes  # the first is too short to say anything
        told.step(20 * (number + 1), {"loss": 1.0, "waiting_for_data": share}, 1e-3)
    told.close()
    said = [x for x in capsys.readouterr().out.splitlines() if "waits for its images" in x]
    assert said == [
        "training waits for its images 60% of the time: more --data.workers, a faster disk or "
        "smaller files would make it faster"
    ]
