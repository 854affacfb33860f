"""`Parallel` is enough for FSDP2: written for it here, in as many lines as it takes, it trains.

EMA, clipping, Muon, checkpoints and publishing work where a process has a part of each tensor only.
"""

import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import newest_checkpoint, tiny_recipe
from tests.training.test_parallel import free_port
from unclip.files import read_safetensors
from unclip.stages.catalogue import STAGES
from unclip.training.job import Folders
from unclip.training.parallel import Averaged, start_parallel

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform != "linux", reason="needs gloo and forks"
)


class Sharded(Averaged):
    """A shard of every parameter in each process, by FSDP2; scalars are whole, and averaged."""

    sharded = True

    def prepare(self, network: nn.Module) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        super().prepare(network)
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        scalars = {p for p in network.parameters() if p.ndim == 0}
        blocks = [m for many in network.modules() if isinstance(many, nn.ModuleList) for m in many]
        for module in (*blocks, network):
            fully_shard(module, mesh=mesh, ignored_params=scalars)
        for name in ("encode_image", "encode_text"):
            register_fsdp_forward_method(network, name)

    def full(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

    def shard(self, full: Tensor, like: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor):
            return full
        full = full.to(like.device)
        return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)

    def computed(self, network: nn.Module) -> None:
        from torch.distributed.fsdp import FSDPModule

        for module in network.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @contextmanager
    def full_weights(self, network: nn.Module) -> Iterator[None]:
        shards = [(m, dict(m._parameters)) for m in network.modules()]
        for module, own in shards:
            for name, shard in own.items():
                if shard is not None:
                    module._parameters[name] = nn.Parameter(self.full(shard.detach()))
        yield
        for module, own in shards:
            module._parameters.update(own)

    def average_gradients(self, network: nn.Module) -> None:
        scalars = [p.grad for p in network.parameters() if p.grad is not None and p.ndim == 0]
        for gradient in scalars:
            torch.distributed.all_reduce(gradient)
            gradient /= self.world_size

    def clip_gradients(self, network: nn.Module, largest: float) -> Tensor:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        norm = self.replica_norm(gradients)
        for gradient in gradients:
            gradient.mul_((largest / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def replica_norm(self, gradients: Iterable[Tensor]) -> Tensor:
        return torch.stack([self.full(gradient.norm()) for gradient in gradients]).norm()


def train(path: Path, steps: int, resume: bool) -> None:
    from unclip.training.start import start

    recipe = tiny_recipe(
        "clip",
        optimiser={"kind": "muon", "decay": 0.0},
        training={"steps": steps, "log_every": 1, "validate_every": 1},
    )
    assert start(STAGES["clip"], recipe, Folders(path / "model", path / "run", resume), "cpu") == 0


def share(rank: int, port: int, path: Path) -> None:
    import unclip.training.start as start

    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    start_parallel("cpu")
    start.start_parallel = lambda device: Sharded(rank, 2, torch.device(device))
    train(path, 4, resume=True)


def test_a_run_of_one_process_goes_on_in_shards_of_two(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train(one, 2, resume=False)
    shutil.copytree(one, two)
    train(one, 4, resume=True)
    context, port = multiprocessing.get_context("fork"), free_port()
    running = [context.Process(target=share, args=(rank, port, two)) for rank in (0, 1)]
    for process in running:
        process.start()
    for process in running:
        process.join(200)
        assert process.exitcode == 0
    logs = [
        [json.loads(line) for line in (path / "run" / "metrics.jsonl").open()]
        for path in (one, two)
    ]
    for of_one, of_two in zip(*logs, strict=True):
        for key in ("loss", "gradient_norm", "scale", "validation_loss"):
            assert of_one[key] == pytest.approx(of_two[key], rel=2e-3)
    weights, shared = (newest_checkpoint(path / "run") for path in (one, two))
    assert weights.keys() == shared.keys()
    for key, tensor in weights.items():
        torch.testing.assert_close(tensor, shared[key], rtol=1e-3, atol=5e-4, msg=key)
    for component in ("text_encoder", "image_encoder"):
        published = [
            next((path / "model" / component).glob("*.safetensors")) for path in (one, two)
        ]
        mine, theirs = map(read_safetensors, published)
        assert mine.keys() == theirs.keys()
        for key in mine:
            torch.testing.assert_close(mine[key], theirs[key], rtol=1e-3, atol=5e-4, msg=key)
