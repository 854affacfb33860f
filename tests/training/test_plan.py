"""What `--dry-run` says, held against what can be counted by hand."""

import re
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
from unclip.training.plan import plan


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
    operations = [numbers(text, "operations per step")[0] for text in (small, large)]
    assert operations[1] == pytest.approx(4 * operations[0], rel=0.02)
    # Forward and backward: about six operations per weight and token; 17 image patches and at most
    # 24 caption tokens meet about half of the weights each.
    assert 0.3 < operations[0] * 1e9 / (6 * parameters * 20 * 64) < 1.5
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
    assert numbers(text, "memory, about")[0] == round(24 * 3_567_007_238 / 2**20)
    assert not list(tmp_path.iterdir())
