"""Runs of every stage, in any number of processes, that say what they come to."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.tiny import tiny_recipe
from unclip.evaluation.judge.training import SPEC as JUDGE
from unclip.stages.catalogue import STAGES
from unclip.stages.recipe import Recipe
from unclip.stages.spec import StageSpec, parse_recipe
from unclip.training.job import Folders, build_job
from unclip.training.loop import Trainer
from unclip.training.parallel import Parallel

STEPS = 20
_OWN: dict[str, dict[str, dict[str, Any]]] = {
    # With dropout, whose masks are the same ones, rounding grows to more than 1e-5 in 20 steps.
    "decoder": {"network": {"dropout": 0.0, "inpainting": True, "caption_tokens": "own",
                            "text_layers": 1}},
    "judge": {"data": {"size": 64}},
}  # fmt: skip


class Outcome(NamedTuple):
    """What each step said, the weights in the end, and what they draw."""

    steps: list[dict[str, float]]
    weights: dict[str, Tensor]
    preview: Tensor | None


def spec_of(stage: str) -> StageSpec[Any]:
    return JUDGE if stage == "judge" else STAGES[stage]


def recipe_of(stage: str, **training: Any) -> Recipe[Any]:
    """20 steps in fp32, by an Adam that rounding does not throw about where gradients vanish."""
    muon = {"kind": "muon"} if training.pop("muon", False) else {}
    rho = {"rho": 0.05} if training.pop("sam", False) else {}
    tables = {
        "training": {"steps": STEPS, **training},
        "optimiser": {"eps": 1e-4, **muon, **rho},
        **_OWN.get(stage, {}),
    }
    if stage != "judge":
        return tiny_recipe(stage, **tables)
    tables["data"] |= {"source": "emoji:shapes", "workers": 0}
    tables["training"] |= {"batch_size": 8, "precision": "fp32"}
    tables["network"] = {"widths": [8, 8, 8], "blocks": [1, 1, 1]}
    return parse_recipe(JUDGE, tables, "test")


def run(stage: str, parallel: Parallel, model: Path, **training: Any) -> Outcome:
    """Train a stage beside the others of a model folder, which stays as it is."""
    torch.manual_seed(parallel.rank)
    folders = Folders(model, model.parent / "none")
    job = build_job(spec_of(stage), recipe_of(stage, **training), folders, parallel)
    trainer = Trainer(job)
    said = [parallel.averaged(trainer.step()) for _ in range(STEPS)]
    example = {key: value[:2] for key, value in (job.data.example or {}).items()}
    drawn = stage == "upsampler"  # in seven steps
    preview = trainer.preview(example) if drawn else None
    weights = {k: parallel.full(p.detach()).cpu() for k, p in trainer.network.named_parameters()}
    return Outcome(said, weights, preview)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def processes(count: int, target: Callable[..., None], *arguments: Any) -> Any:
    """A block beside which `target(*arguments)` runs in so many processes, as torchrun starts them;
    it ends when they have, and fails where one has."""
    port = free_port()

    def work(rank: int) -> None:
        os.environ.update(
            RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip
        target(*arguments)

    context = multiprocessing.get_context("fork")
    running = [context.Process(target=work, args=(rank,)) for rank in range(count)]
    for process in running:
        process.start()
    yield
    for process in running:
        process.join(1000)
        assert process.exitcode == 0
