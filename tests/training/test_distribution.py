"""Two processes compute what one does on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unclip.training.distribution import Processes, agreed, average_gradients, same_weights

PROGRAM = """
import os, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from safetensors.torch import save_file
from tests.tiny import scenes, tiny_recipe
from unclip.training.distribution import agreed, average_gradients, same_weights, start_processes
from unclip.stages.clip import ClipStage
from unclip.training.stages import STAGES
from unclip.training.start import Where, start

out = Path(sys.argv[1])
processes = start_processes("cpu")
batch = scenes(16)
torch.manual_seed(processes.rank)  # different weights at first
stage = ClipStage.build(tiny_recipe("clip").network, batch["captions"])
same_weights(stage.network, processes.world_size)
share = 16 // processes.world_size
part = slice(processes.rank * share, (processes.rank + 1) * share)
losses = stage.loss({key: value[part] for key, value in batch.items()}, torch.Generator())
losses["loss"].backward()
average_gradients(stage.network.parameters(), processes.world_size)
tensors = {name: p.grad for name, p in stage.network.named_parameters()}
loss = losses["loss"].detach()
if processes.world_size > 1:
    torch.distributed.all_reduce(loss)
tensors["loss"] = loss / processes.world_size
assert agreed(15 * processes.rank, processes) == (15 if processes.world_size > 1 else 0)
if processes.main:
    save_file(tensors, out / f"gradients-{processes.world_size}.safetensors")
where = Where(out / f"model-{processes.world_size}", out / f"run-{processes.world_size}")
recipe = tiny_recipe("clip", training={"steps": 3, "precision": "fp32"})
assert start(STAGES["clip"], recipe, where, "cpu") == 0
"""


def launch(processes: int, out: Path, port: int) -> list["subprocess.Popen[str]"]:
    common = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(out)],
            env={**common, "RANK": str(rank), "WORLD_SIZE": str(processes)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distribution")
def test_two_processes_train_clip_like_one(tmp_path: Path) -> None:
    running = [*launch(2, tmp_path, free_port()), *launch(1, tmp_path, 0)]
    for process in running:
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 0, output
    one, two = (load_file(tmp_path / f"gradients-{n}.safetensors") for n in (1, 2))
    assert one.keys() == two.keys()
    for key in one:
        assert torch.allclose(one[key], two[key], rtol=1e-4, atol=2e-6), key
    one, two = (
        load_file(tmp_path / f"run-{n}" / "checkpoints" / "step-00000003.safetensors")
        for n in (1, 2)
    )
    for key in one:
        if key.startswith("network."):
            assert torch.allclose(one[key], two[key], atol=2e-4), key
    assert not (tmp_path / "run-2" / "checkpoints" / ".step").exists()


def test_alone_nothing_is_exchanged() -> None:
    network = torch.nn.Linear(2, 2)
    same_weights(network, 1)
    average_gradients(network.parameters(), 1)
    assert agreed(2, Processes(0, 1, torch.device("cpu"))) == 2
