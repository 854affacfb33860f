"""Two processes compute what one does on the whole batch."""

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import newest_checkpoint, scenes, tiny_recipe
from unclip.stages.catalogue import STAGES
from unclip.stages.clip import ClipStage
from unclip.training import parallel
from unclip.training.job import Folders
from unclip.training.parallel import Alone, start_parallel
from unclip.training.start import start


def work(rank: int, count: int, port: int, out: Path) -> None:
    """One process of `count`: CLIP's gradients on its share of 16 images, then a whole run."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    here = start_parallel("cpu")
    batch, share = scenes(16), 16 // count
    torch.manual_seed(rank)  # different weights at first
    stage = ClipStage.build(tiny_recipe("clip").network, batch["captions"])
    stage.replicas = here
    here.prepare(stage.network)
    part = slice(rank * share, (rank + 1) * share)
    losses = stage.loss({key: value[part] for key, value in batch.items()}, torch.Generator())
    losses["loss"].backward()
    here.average_gradients(stage.network)
    tensors = {name: p.grad for name, p in stage.network.named_parameters()}
    tensors["loss"] = losses["loss"].detach().clone()
    if count > 1:
        torch.distributed.all_reduce(tensors["loss"])
    tensors["loss"] /= count
    assert here.agreed(15 * rank) == (15 if count > 1 else 0)
    assert here.heard("über" if rank == count - 1 else "") == "über"
    assert here.heard("") == ""
    if here.main:
        save_file(tensors, out / f"gradients-{count}.safetensors")
    mine = {"a": torch.tensor(float(rank)), "b": torch.tensor(4.0)}
    assert here.averaged(mine) == {"a": (count - 1) / 2, "b": 4.0}
    recipe = tiny_recipe("clip", training={"steps": 3, "log_every": 1, "validate_every": 2})
    where = Folders(out / f"model-{count}", out / f"run-{count}")
    assert start(STAGES["clip"], recipe, where, "cpu") == 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distribution")
def test_two_processes_train_clip_like_one(tmp_path: Path) -> None:
    context, port = multiprocessing.get_context("fork"), free_port()
    running = [
        context.Process(target=work, args=(rank, count, port, tmp_path))
        for rank, count in ((0, 2), (1, 2), (0, 1))
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(100)
        assert process.exitcode == 0
    one, two = (load_file(tmp_path / f"gradients-{n}.safetensors") for n in (1, 2))
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=2e-6, msg=key)
    logs = [
        [json.loads(line) for line in (tmp_path / f"run-{n}" / "metrics.jsonl").open()]
        for n in (1, 2)
    ]
    for of_one, of_two in zip(*logs, strict=True):
        for key in ("loss", *(key for key in of_one if key.startswith("validation"))):
            assert of_one[key] == pytest.approx(of_two[key], abs=2e-3), key
        assert of_one["accuracy"] == pytest.approx(of_two["accuracy"], abs=1e-6)
    assert ["validation_accuracy" in line for line in logs[1]] == [False, True, True]
    one, two = (newest_checkpoint(tmp_path / f"run-{n}") for n in (1, 2))
    assert one.keys() == two.keys()
    for key in one:
        if key.startswith("network."):
            torch.testing.assert_close(one[key], two[key], rtol=0, atol=2e-4, msg=key)


def test_alone_everything_is_what_it_is() -> None:
    alone, network = Alone(torch.device("cpu")), torch.nn.Linear(2, 2)
    alone.prepare(network)
    alone.average_gradients(network)
    assert alone.agreed(2) == 2
    assert alone.gather(network.weight) is alone.full(network.weight) is network.weight
    values = {"loss": torch.tensor(0.5), "accuracy": torch.tensor(1)}
    assert alone.averaged(values) == {"loss": 0.5, "accuracy": 1.0}


def test_nothing_else_exchanges() -> None:
    package = Path(parallel.__file__).parents[1]
    calling = [f.name for f in package.rglob("*.py") if "torch.distributed" in f.read_text("utf-8")]
    assert sorted(calling) == ["checkpoint_storage.py", "parallel.py"]
