"""What `--dry-run` says, held against what can be counted by hand."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_recipe
from unclip.data.batches import batches
from unclip.stages.catalogue import STAGES
from unclip.stages.clip import ClipSettings
from unclip.stages.encoders import CLIP
from unclip.stages.spec import parse_recipe
from unclip.training import data
from unclip.training import plan as plans
from unclip.training.job import Folders
from unclip.training.plan import Elsewhere, plan
from unclip.training.report import duration

UNITS = {"GFLOP": 1e9, "TFLOP": 1e12, "PFLOP": 1e15, "EFLOP": 1e18}


def flop(text: str) -> float:
    """Operations of a step."""
    (line,) = [line for line in text.splitlines() if line.startswith("operations per step")]
    number, unit = line.split()[3:5]
    return float(number.replace(",", "")) * UNITS[unit.strip(",")]


def numbers(text: str, row: str) -> list[float]:
    (line,) = [line for line in text.splitlines() if line.startswith(row)]
    return [float(word.replace(",", "")) for word in re.findall(r"(?<![\w.])[\d,.]*\d", line)]


def planned(tmp_path: Path, stage: str, batch: int) -> str:
    recipe = tiny_recipe(stage, training={"batch_size": batch, "steps": 1000})
    return plan(STAGES[stage], recipe, Folders(tmp_path / "model", tmp_path / "run"), "cpu")


def test_it_starts_no_process_and_draws_no_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def watched(*given: Any, **more: Any) -> Any:
        asked.append((given[2], given[6] if len(given) > 6 else 0))
        return batches(*given, **more)

    monkeypatch.setattr(data, "batches", watched)
    recipe = tiny_recipe("clip", training={"batch_size": 2**16}, data={"workers": 200})
    text = plan(STAGES["clip"], recipe, Folders(tmp_path / "model", tmp_path / "run"), "cpu")
    assert numbers(text, "memory, about")[-1] == 2**16
    assert asked
    assert all(size <= 64 and workers == 0 for size, workers in asked)


def test_clip(tmp_path: Path) -> None:
    small, large = planned(tmp_path, "clip", 64), planned(tmp_path, "clip", 256)
    network = CLIP(ClipSettings("tiny", context_length=24).config(560))
    parameters = sum(p.numel() for p in network.parameters())
    assert numbers(small, "trained parameters") == [pytest.approx(parameters, rel=0.02)]
    operations = [flop(text) for text in (small, large)]
    assert operations[1] == pytest.approx(4 * operations[0], rel=0.02)
    # Forward and backward: about six operations per weight and token; 17 image patches and at most
    # 24 caption tokens meet about half of the weights each.
    assert 0.3 < operations[0] / (6 * parameters * 20 * 64) < 1.5
    (_, state, kept, images), (_, same, more, _) = (
        numbers(text, "memory, about") for text in (small, large)
    )
    assert images == 64
    assert state == same == round(4 * 6 * parameters / 2**20)
    assert more == pytest.approx(4 * kept, rel=0.1)  # weights are not counted with the images
    assert not list(tmp_path.iterdir())  # nothing was written


def test_a_large_network_is_counted_without_being_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "build_job", lambda *_: pytest.fail("it was built"))
    recipe = parse_recipe(STAGES["decoder"], {"network": {"size": "paper"}}, "test")
    folders = Folders(tmp_path / "model", tmp_path / "run")  # without a CLIP: the paper's
    text = plan(STAGES["decoder"], recipe, folders, "cpu")
    assert numbers(text, "trained parameters") == [3_567_007_238]
    weights = 4 * 3_567_007_238 / 2**30
    memory = numbers(text, "memory of each")
    assert memory[1:5] == pytest.approx([weights, weights, 2 * weights, 2 * weights], rel=0.01)
    assert "as products in" in text  # the rate
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["clip", "prior", "ar-prior", "decoder", "upsampler"])
def test_what_is_counted_without_memory_is_what_the_loss_takes(
    stage: str, tiny_model: Path, tmp_path: Path
) -> None:
    """But for captions, which have fewer tokens there than CLIP reads, and for codes."""
    recipe = tiny_recipe(stage)
    folders = Folders(tiny_model, tmp_path / "run", overwrite=True)
    if stage == "clip":
        folders = Folders(tmp_path / "model", tmp_path / "run")
    found = plans._estimate(STAGES[stage], recipe, folders)
    takes = plans.needs(STAGES[stage], recipe, folders, "cpu")
    assert takes.operations is not None
    assert takes.operations / recipe.training.batch_size < 1.05 * found.operations
    assert takes.operations / recipe.training.batch_size > 0.4 * found.operations
    assert takes.activations / recipe.training.batch_size == pytest.approx(found.kept, rel=0.7)
    assert 0 < found.checkpointed <= found.kept
    assert 0 < found.largest < takes.parameters


def test_for_other_machines(tmp_path: Path) -> None:
    recipe = parse_recipe(STAGES["prior"], {"network": {"size": "karlo"}}, "test")
    recipe = replace(recipe, training=replace(recipe.training, batch_size=1024, precision="bf16"))
    folders = Folders(tmp_path / "model", tmp_path / "run")

    def said(processes: int) -> str:
        return plan(STAGES["prior"], recipe, folders, "cpu", Elsewhere(processes, 100e12))

    one, many = said(8), said(64)
    whole, sharded = (numbers(many, row) for row in ("memory of each", "  sharded"))
    parameters = numbers(many, "trained parameters")[0]
    assert whole[1] == pytest.approx(4 * parameters / 2**30, abs=0.05)
    assert sharded[1] == pytest.approx(4 * parameters / 2**30 / 64, abs=0.005)
    assert sharded[0] < whole[0] / 2
    assert numbers(one, "memory of each")[5] == pytest.approx(8 * whole[5], rel=0.1)
    operations = flop(many)
    days = operations * recipe.training.steps / (64 * 100e12)
    assert f"{duration(days)} on 64 devices at 100 TFLOP/s each (--rate)" in many


def test_a_batch_that_does_not_split(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "model", tmp_path / "run")
    with pytest.raises(ValueError, match=r"batch_size 8 does not split over 3 processes; take a"):
        plan(STAGES["clip"], tiny_recipe("clip"), folders, "cpu", Elsewhere(3))
