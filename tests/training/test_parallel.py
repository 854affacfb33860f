"""Two processes, as replicas or with shards, compute what one does."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import tiny_recipe
from tests.training.runs import Outcome, processes, run
from unclip.batch import Batch
from unclip.draws import RowsGenerator, integers, normal, uniform
from unclip.evaluation.judge.training import SPEC as JUDGE
from unclip.files import read_safetensors
from unclip.stages.catalogue import STAGES
from unclip.training import parallel
from unclip.training.job import Folders
from unclip.training.parallel import Alone, start_parallel
from unclip.training.sam import sharpness_aware
from unclip.training.start import start

needs_two = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform != "linux", reason="needs gloo and forks"
)
# What is run: a stage, and how.
CASES: dict[str, dict[str, Any]] = {
    **{name: {} for name in (*STAGES, JUDGE.name)},
    "clip in parts": {"accumulation": 2},
    "prior by muon": {"muon": True},
    "prior computed again": {"checkpoint_activations": True},
    "clip of bf16": {"precision": "bf16"},
}
ONLY_SHARDED = {"prior by sam": {"sam": True}}  # of which a replica is all processes


def all_cases(model: Path, out: Path) -> None:
    for shard in (False, True):
        here = start_parallel("cpu", shard)
        assert here.sharded == shard
        for name, training in (CASES | (ONLY_SHARDED if shard else {})).items():
            outcome = run(name.split()[0], here, model, shard=shard, **training)
            if here.main:
                torch.save(outcome, out / f"{name}-{shard}.pt")


Results = dict[tuple[str, str], Outcome]


@pytest.fixture
def outcomes(model: Path, tmp_path: Path) -> Results:
    """Every case in one process, in two replicas and in two shards: two processes for all."""
    found: Results = {}
    alone = Alone(torch.device("cpu"))
    with processes(2, all_cases, model, tmp_path):
        for name, training in (CASES | ONLY_SHARDED).items():
            found[name, "alone"] = run(name.split()[0], alone, model, **training)
    for way, shard in (("replicated", False), ("sharded", True)):
        for name in CASES | (ONLY_SHARDED if shard else {}):
            found[name, way] = Outcome(
                *torch.load(tmp_path / f"{name}-{shard}.pt", weights_only=False)
            )
    return found


@needs_two
@pytest.mark.slow
@pytest.mark.timeout(1200)  # of a machine that does much else
def test_two_processes_train_every_stage_like_one(outcomes: Results) -> None:
    """One test: pytest's workers would train all of it anew for each other part."""
    for (case, way), two in outcomes.items():
        one, what = outcomes[case, "alone"], f"{case}, {way}"
        close = 5e-2 if "bf16" in case else 1e-5  # which has three digits
        for number, (alone, shared) in enumerate(zip(one.steps, two.steps, strict=True)):
            assert alone.keys() == shared.keys()
            for key in alone:
                if key not in ("accuracy", "shape_accuracy"):  # which jump
                    near = pytest.approx(alone[key], rel=close, abs=close)
                    assert shared[key] == near, (what, number, key)
        assert one.steps[-1]["loss"] != one.steps[0]["loss"], what
        assert one.weights.keys() == two.weights.keys()
        for key, weight in one.weights.items():
            atol, msg = min(close, 5e-3), f"{what}: {key}"
            torch.testing.assert_close(two.weights[key], weight, rtol=0, atol=atol, msg=msg)
        if one.preview is not None:
            assert two.preview is not None
            torch.testing.assert_close(two.preview, one.preview, rtol=0, atol=1e-2)


class Line:
    """Fits w x to each process's own target."""

    def __init__(self) -> None:
        self.network = nn.Linear(2, 1, bias=False)
        self.network.unused = nn.Parameter(torch.ones(1))  # type: ignore[assignment]

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": (self.network(batch["x"]) - 1).square().mean()}


def exchanges() -> None:
    """What a replica keeps to itself, and what all have in the end."""
    here, noise = start_parallel("cpu"), torch.Generator()
    assert here.agreed(15 * here.rank) == 15
    mine = {"a": torch.tensor(float(here.rank)), "b": torch.tensor(4.0)}
    assert here.averaged(mine) == {"a": 0.5, "b": 4.0}
    assert here.heard("über" if here.rank == 1 else "") == "über"
    assert here.heard("") == ""
    torch.manual_seed(here.rank)  # other weights at first
    stage: Any = Line()
    trained = here.prepare(stage, torch.float32)
    weight = stage.network.weight
    together = here.gather(weight.detach())
    assert torch.equal(together[0], together[1])
    parts = [{"x": torch.randn(4, 2)} for _ in range(2)]  # each process's own

    def gradient(part: Batch, at: Tensor) -> Tensor:
        moved = at.clone().requires_grad_()
        (part["x"] @ moved.T - 1).square().mean().backward()
        assert moved.grad is not None
        return moved.grad

    def backward(part: Batch) -> None:
        trained(part, noise)["loss"].backward()

    own = [gradient(part, weight.detach()) for part in parts]
    with trained.unaveraged():
        backward(parts[0])
    torch.testing.assert_close(weight.grad, own[0])
    backward(parts[1])
    torch.testing.assert_close(weight.grad, here.gather(sum(own)).mean(0, keepdim=True))
    assert stage.network.unused.grad is None

    stage.network.zero_grad()  # SAM: each replica looks along its own gradient
    ahead = weight.detach() + 0.3 * own[0] / own[0].norm()
    wanted = here.gather(gradient(parts[0], ahead)).mean(0, keepdim=True)
    weights = stage.network.parameters()
    sharpness_aware(lambda: backward(parts[0]), weights, 0.3, here, trained.unaveraged)
    torch.testing.assert_close(weight.grad, wanted)


@needs_two
def test_parts_of_a_batch_are_exchanged_once(tmp_path: Path) -> None:
    with processes(2, exchanges):
        pass


def whole_run(path: Path, steps: int, **training: Any) -> None:
    recipe = tiny_recipe(
        "clip",
        optimiser={"kind": "muon", "decay": 0.0},
        training={"steps": steps, "log_every": 1, "validate_every": 1, **training},
    )
    where = Folders(path / "model", path / "run", resume=(path / "run").exists())
    assert start(STAGES["clip"], recipe, where, "cpu") == 0


def both_ways(path: Path) -> None:
    for way, shard in (("replicated", False), ("sharded", True)):
        whole_run(path / way, 4, shard=shard)


@needs_two
def test_a_run_of_one_process_goes_on_in_two(tmp_path: Path) -> None:
    """Published weights, and what is logged and measured, too."""
    whole_run(tmp_path / "alone", 2)
    for way in ("replicated", "sharded"):
        shutil.copytree(tmp_path / "alone", tmp_path / way)
    with processes(2, both_ways, tmp_path):
        whole_run(tmp_path / "alone", 4)
    logs = logged(tmp_path / "alone")
    for way in ("replicated", "sharded"):
        for of_one, of_two in zip(logs, logged(tmp_path / way), strict=True):
            for key in ("loss", "gradient_norm", "scale", "validation_loss", "validation_accuracy"):
                assert of_one[key] == pytest.approx(of_two[key], rel=2e-3), (way, key)
        for component in ("text_encoder", "image_encoder"):
            one, two = (weights(tmp_path / name / "model" / component) for name in ("alone", way))
            assert one.keys() == two.keys()
            for key, tensor in one.items():
                torch.testing.assert_close(tensor, two[key], rtol=1e-3, atol=5e-4, msg=key)


def logged(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "run" / "metrics.jsonl").open()]


def weights(component: Path) -> dict[str, Tensor]:
    return read_safetensors(next(component.glob("*.safetensors")))


def test_alone_everything_is_what_it_is() -> None:
    alone = Alone(torch.device("cpu"))
    stage: Any = Line()
    trained, weight = alone.prepare(stage, torch.float32), stage.network.weight
    with trained.unaveraged():
        trained({"x": torch.ones(3, 2)}, torch.Generator())["loss"].backward()
    assert weight.grad is not None
    assert alone.agreed(2) == 2
    assert alone.gather(weight) is alone.full(weight) is weight
    values = {"loss": torch.tensor(0.5), "accuracy": torch.tensor(1)}
    assert alone.averaged(values) == {"loss": 0.5, "accuracy": 1.0}


def test_one_process_has_nothing_to_shard() -> None:
    assert not start_parallel("cpu", shard=True).sharded


def streams(processes: int) -> Iterator[torch.Generator]:
    """Those of several processes that share a batch."""
    for rank in range(processes):
        generator = RowsGenerator(torch.device("cpu"), rank, processes)
        generator.whole.manual_seed(7)
        yield generator.manual_seed(rank)


def test_rows_have_their_noise_whoever_draws_it() -> None:
    alone = torch.Generator().manual_seed(7)
    for draw in (
        lambda count, of: normal(count, 3, 5, generator=of),
        lambda count, of: uniform(count, generator=of),
        lambda count, of: integers(1000, count, 2, generator=of),
    ):
        alone.manual_seed(7)
        whole = draw(12, alone)
        for count in (1, 2, 3):
            rows = [draw(12 // count, stream) for stream in streams(count)]
            assert torch.equal(torch.cat(rows), whole)
    plain = [torch.rand(3, generator=stream) for stream in streams(2)]
    assert not torch.equal(*plain)  # what does not ask for rows is each process's own


def test_nothing_else_exchanges() -> None:
    package = Path(parallel.__file__).parents[1]
    calling = [f.name for f in package.rglob("*.py") if "torch.distributed" in f.read_text("utf-8")]
    assert sorted(calling) == ["checkpoint_storage.py", "replicated.py", "sharded.py"]
