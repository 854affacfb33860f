"""benchmarks/approximations.py on a tiny model: what it counts, its table, and plots of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from unclip import Pipeline, Settings
from unclip.evaluation.judge.network import Judge, JudgeConfig
from unclip.evaluation.judge.training import JudgeStage
from unclip.pipeline.settings import PRESETS
from unclip.stages.decoder import GuidanceStudent
from unclip.storage.folder import ModelFolder

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import approximations
    import common

    monkeypatch.setattr(common, "RESULTS", tmp_path / "results.jsonl")
    before = dict(PRESETS)
    yield approximations
    PRESETS.clear()
    PRESETS.update(before)


def test_every_variant_costs_what_it_says(
    script: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")
    PRESETS.update(script.deterministic_variants((4, 5, 3)))

    def counts(name: str) -> list[int]:
        settings = Settings(name, eta=0.0, prior_guidance_scale=2.0, decoder_guidance_scale=3.0)
        assert script.is_deterministic(pipe, settings)
        return list(script.evaluations(pipe, settings).values())

    assert counts("many steps") == [8, 10, 3]
    assert counts("ddim") == counts("decoder reuse 3") == [50, 50, 7]
    assert counts("super res ddim 2") == [50, 50, 2]
    assert counts("prior dpm++ 5") == [10, 50, 7]
    assert counts("guidance 0.3 to 5") < counts("guidance 0 to 5") < [50, 50, 7]
    student = GuidanceStudent(pipe.decoder.network.decoder, (1.0, 4.0))
    monkeypatch.setattr(pipe.decoder, "student", student)
    assert counts("distilled guidance ddim 25") == [50, 25, 7]
    assert counts("distilled guidance dpm++ 10") == [50, 10, 7]
    assert not script.is_deterministic(pipe, Settings("ddim", eta=1.0))
    assert not script.is_deterministic(pipe, Settings("prior dpm++ 5", eta=1.0))
    assert not script.is_deterministic(pipe, Settings("default", sampler="ddpm"))
    quick = {"prior_num_inference_steps": 2, "super_res_num_inference_steps": 1}
    whole, reused = (
        script.operations(pipe, Settings("ddim", eta=0.0, reuse=k, **quick)) for k in (1, 2)
    )
    assert reused < whole


def test_the_table(
    script: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    JudgeStage(Judge(JudgeConfig((8, 8, 8), (1, 1, 1))).initialise()).save(
        ModelFolder(tmp_path / "judge")
    )
    monkeypatch.setattr(
        "sys.argv",
        [
            "approximations.py", "--model", str(tiny_model), "--judge", str(tmp_path / "judge"),
            "-n", "3", "--batch-size", "2", "--repeats", "1", "--many", "3", "4", "2",
            "--only", "many steps", "fast", "super res ddim 2", "--size", "32",
        ],
    )  # fmt: skip
    script.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == [
        "| many steps", "| fast", "| super res ddim 2", "| real scenes",
    ]  # fmt: skip
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    report = json.loads(line)
    assert [row["variant"] for row in report["rows"]] == ["many steps", "fast", "super res ddim 2"]
    reference, fast, fewer = report["rows"]
    assert reference["psnr"] is None
    assert fast["psnr"] is None  # it adds noise
    assert fewer["psnr"] > 0
    assert -1 <= fewer["cosine"] <= 1
    assert fast["fid"] > 0
    assert fast["composition"]["scenes"] == 3
    import plot

    monkeypatch.setattr(plot, "RESULTS", tmp_path / "results.jsonl")
    assert not plot.speed("small", tmp_path / "speed.png")
    assert plot.approximations(tmp_path / "approximations.png")
    with Image.open(tmp_path / "approximations.png") as image:
        assert len(image.convert("L").getcolors()) > 10


def test_a_plot_of_speeds(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From what `compare.py` writes; parts that were not measured, and int8, may be missing."""
    import common
    import plot

    monkeypatch.setattr(plot, "RESULTS", tmp_path / "results.jsonl")
    times = {"fp32": (1.0, 4.0), "bf16": (0.5, 2.0)}
    rows = [
        {"precision": precision, "batch": batch, "ours": ours, "theirs": theirs}
        for precision, (ours, theirs) in times.items()
        for batch in (1, 4)
    ]
    for part in ("prior", "upsampler"):
        common.record(torch.device("cpu"), part=part, size="small", rows=rows)
    assert plot.speed("small", tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 1000
    assert not plot.speed("full", tmp_path / "none.png")
