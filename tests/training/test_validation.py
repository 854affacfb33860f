"""What a run is measured on while it trains, how often, and what is said and kept of it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import captioned_folder
from tests.tiny import tiny_recipe
from tests.training.test_loop import ALONE, Regression, data, steps
from unclip.batch import Batch
from unclip.data.folder import FolderSource
from unclip.data.sources import unseen
from unclip.files import read_facts
from unclip.stages.catalogue import STAGES
from unclip.stages.recipe import Data, Optimiser, Recipe, Training, open_data
from unclip.training import checkpoint
from unclip.training.best import Best, Measured
from unclip.training.data import TrainingData
from unclip.training.job import Folders, Job
from unclip.training.loop import Trainer
from unclip.training.replicated import Replicated
from unclip.training.start import start
from unclip.training.validation import Validation, interval, said, validation_of

Capture = pytest.CaptureFixture[str]
ON = Validation(
    every=2,
    held_out=({"images": torch.ones(4, 3, 1, 1), "captions": ["held"] * 4},),
    seen=({"images": torch.eye(3)[..., None, None], "captions": [""] * 3},),
    images=4,
    measured_on="these",
)


class Halfway(Regression):
    """Its weights go from 0 to 1; held-out images like them best at one half."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__(noise=noise)
        torch.nn.init.zeros_(self.network.weight)

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        if batch["captions"][0] == "held":
            assert not self.network.training
            return {"loss": ((self.network.weight - 0.5) ** 2).mean()}
        return super().loss(batch, generator)


def trained(
    path: Path, training: Training, validation: Validation | None, resume: bool = False
) -> Trainer:
    recipe = Recipe(None, Data(), training, Optimiser(learning_rate=0.05, warmup=0, clip=1e9))
    known = TrainingData(data(), images=80, validation=validation)
    folders = Folders(path / "model", path, resume)
    trainer = Trainer(Job("regression", recipe, folders, Halfway(0.1), known, ALONE))
    assert trainer.run() == 0
    return trainer


def published(path: Path) -> Tensor:
    file = next((path / "model" / "regression").glob("*.safetensors"))
    return load_file(file)["weight"]


def test_the_best_weights_are_published_and_over_fitting_is_said_once(
    tmp_path: Path, capsys: Capture
) -> None:
    state = trained(tmp_path, steps(80, log_every=40), ON).state
    low, new = state.best.lowest, state.best.newest
    assert 2 <= low.step < new.step == 80
    assert torch.allclose(published(tmp_path), torch.full((1, 3), 0.5), atol=0.1)
    assert torch.equal(published(tmp_path), state.best.weights["weight"])
    assert state.ema.average["weight"].mean() > 0.8
    said = capsys.readouterr().out
    assert said.count("by heart") == 1
    assert f"lowest at step {low.step:,} (" in said
    assert "the network learns its 80 images by heart; more images, flips" in said
    assert said.splitlines()[-1].startswith(f"published: step {low.step}, the best on held-out")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    measured = [line["step"] for line in lines if "validation_loss" in line]
    assert measured == list(range(2, 81, 2))
    assert {line["step"]: line["epoch"] for line in lines}[40] == 4


def test_measuring_changes_nothing_but_what_is_published(tmp_path: Path) -> None:
    with_, without = (
        trained(tmp_path / name, steps(30), on).state for name, on in (("a", ON), ("b", None))
    )
    assert torch.equal(with_.network.weight, without.network.weight)
    assert torch.equal(with_.ema.average["weight"], without.ema.average["weight"])
    assert torch.equal(published(tmp_path / "b"), without.ema.average["weight"])
    assert not without.best.facts()


def test_the_best_survives_a_stop(tmp_path: Path, capsys: Capture) -> None:
    whole = trained(tmp_path / "whole", steps(60), ON).state
    for last in (10, 34, 60):
        again = trained(tmp_path / "cut", steps(last), ON, resume=last > 10).state
    assert again.best.facts() == whole.best.facts()
    assert torch.equal(again.best.weights["weight"], whole.best.weights["weight"])
    assert again.best.lowest.step != 60
    assert torch.equal(published(tmp_path / "cut"), again.best.weights["weight"])
    capsys.readouterr()
    other = trained(tmp_path / "cut", steps(60), replace(ON, measured_on="others"), resume=True)
    assert other.state.best.lowest.step == again.best.lowest.step  # its value is measured anew
    assert torch.equal(other.state.best.weights["weight"], again.best.weights["weight"])
    assert trained(tmp_path / "cut", steps(60), None, resume=True).state.best == Best()
    assert torch.equal(published(tmp_path / "cut"), again.ema.average["weight"])


@pytest.mark.parametrize("key", ["lowest", "newest", "measured_on"])
def test_a_checkpoint_that_does_not_say_what_was_measured(tmp_path: Path, key: str) -> None:
    trained(tmp_path, steps(4), ON)
    file = checkpoint.checkpoints(tmp_path / "checkpoints")[-1]
    facts = read_facts(file)
    best = json.loads(facts["best"])
    del best[key]
    tensors = load_file(file)
    from unclip.files import write_safetensors

    kept = {name: fact for name, fact in facts.items() if name not in ("checksums", "format")}
    write_safetensors(file, tensors, kept | {"best": json.dumps(best)})
    with pytest.raises(ValueError, match="does not say what was measured"):
        trained(tmp_path, steps(6), ON, resume=True)


@pytest.mark.parametrize(
    ("low", "new", "over"),
    [
        (Measured(10, 1.0, 1.0), Measured(30, 1.1, 0.9), True),
        (Measured(10, 1.0, 1.0), Measured(20, 1.1, 0.9), False),  # perhaps chance
        (Measured(10, 1.0, 1.0), Measured(30, 1.01, 0.9), False),
        (Measured(10, 1.0, 1.0), Measured(30, 1.1, 1.1), False),  # it diverges
        (Measured(10, -1.0, 1.0), Measured(30, -0.9, 0.9), True),
    ],
)
def test_what_over_fitting_is(low: Measured, new: Measured, over: bool) -> None:
    assert Best(low, new).overfits(every=10) == over


@pytest.mark.parametrize(
    ("steps", "batch", "every"),
    [(10_000, 256, 200), (2000, 64, 67), (300, 8, 30), (100_000, 64, 2000), (6, 8, 0), (1, 1, 0)],
)
def test_measuring_costs_little_by_default(steps: int, batch: int, every: int) -> None:
    assert interval(Training(steps=steps, batch_size=batch)) == every
    assert interval(Training(steps=steps, batch_size=batch, validate_every=7)) == 7


def folder_recipe(path: Path, **training: Any) -> Recipe[Any]:
    table = {"source": str(path), "world": {}, "held_out": 0.3}
    given = {"validate_every": 2, "batch_size": 8, **training}
    return tiny_recipe("clip", data=table, training=given)


def rows(validation: Validation) -> list[tuple[bytes, ...]]:
    """The images of each held-out batch."""
    return [
        tuple(image.numpy().tobytes() for image in part["images"]) for part in validation.held_out
    ]


def test_batches_are_of_different_held_out_images_in_any_number_of_processes(
    tmp_path: Path,
) -> None:
    recipe = folder_recipe(captioned_folder(tmp_path / "mine", 40))
    source = open_data(recipe.data)
    assert isinstance(source, FolderSource)
    other = unseen(source)
    assert isinstance(other, FolderSource)
    assert other.crop == "centre"
    assert {one.name for one in other.items}.isdisjoint(one.name for one in source.items)
    validation = validation_of(source, recipe, ALONE)
    assert validation is not None
    held_out = {other[i]["image"].numpy().tobytes() for i in range(len(other))}
    for batch in rows(validation):
        assert len(set(batch)) == len(batch)
        assert set(batch) <= held_out
    assert rows(validation) == rows(validation_of(source, recipe, ALONE) or validation)
    assert len(validation.seen) == len(validation.held_out)
    halves = [
        validation_of(source, recipe, Replicated(rank, 2, torch.device("cpu"))) for rank in (0, 1)
    ]
    first, second = (rows(half) for half in halves if half is not None)
    assert [a + b for a, b in zip(first, second, strict=True)] == [
        row[: len(row) // 2 * 2] for row in rows(validation)
    ]
    measured = f"on {validation.images} of {len(other)} held-out images, every 2"
    assert measured in said(validation, source, recipe)


def test_what_holds_out_too_little_is_not_measured_and_says_so(tmp_path: Path) -> None:
    path = captioned_folder(tmp_path / "mine", 12)
    for fraction, says in (
        (0.3, "held-out images say too little"),
        (1e-6, "held out: none, as 12 images are too few"),
        (0.0, "data.held_out is 0"),
    ):
        recipe = folder_recipe(path)
        recipe = replace(recipe, data=replace(recipe.data, held_out=fraction))
        source = open_data(recipe.data)
        assert validation_of(source, recipe, ALONE) is None
        assert says in said(None, source, recipe)


@pytest.mark.parametrize("stage", ["clip", "upsampler", "upsampler-1024"])
def test_the_built_in_world_is_measured_on_combinations_it_leaves_out(stage: str) -> None:
    recipe = tiny_recipe(stage, training={"validate_every": 2})
    spec = STAGES[stage]
    source = spec.source(recipe) if spec.source else open_data(recipe.data)
    validation = validation_of(source, recipe, ALONE)
    assert validation is not None
    assert len(validation.held_out[0]["captions"]) == 8
    assert ("small" in validation.held_out[0]) == (stage == "upsampler-1024")


def facts_of(run: Path) -> Mapping[str, str]:
    return read_facts(checkpoint.checkpoints(run / "checkpoints")[-1])


def test_a_small_folder_trains_and_is_measured(tmp_path: Path, capsys: Capture) -> None:
    recipe = folder_recipe(captioned_folder(tmp_path / "mine", 40), steps=4)
    assert start(STAGES["clip"], recipe, Folders(tmp_path / "m", tmp_path / "r"), "cpu") == 0
    out = capsys.readouterr().out
    assert "validated: on " in out
    assert "held out" in out.splitlines()[-2]
    assert json.loads(facts_of(tmp_path / "r")["best"])["newest"]["step"] == 4
