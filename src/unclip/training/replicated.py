"""Several processes, each with the whole network and a part of every batch (DDP)."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from unclip.batch import Batch
from unclip.stages.base import Stage
from unclip.training.parallel import Alone, Trained


class Replica(Trained):
    """One of several, whose gradients are averaged while the backward pass goes on.

    DDP puts them into buckets and exchanges each as soon as it is full. A parameter that no process
    has used has no gradient, as alone.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.replica = DistributedDataParallel(
            Trained(stage),
            broadcast_buffers=False,  # what a network has of them no step changes
            gradient_as_bucket_view=True,
            find_unused_parameters=True,
        )

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.replica(batch, generator)
        return losses

    def unaveraged(self) -> AbstractContextManager[None]:
        return self.replica.no_sync()


class Replicated(Alone):
    """Every process has everything; what it computes of its part of a batch is averaged.

    All but gradients and what is measured is as alone, since every process does the same with the
    same numbers.
    """

    def __init__(self, rank: int, world_size: int, device: torch.device) -> None:
        super().__init__(device)
        self.rank, self.world_size, self.main = rank, world_size, rank == 0

    def prepare(self, stage: Stage, dtype: torch.dtype) -> Trained:
        super().prepare(stage, dtype)
        return Replica(stage)

    def agreed(self, number: int) -> int:
        largest = torch.tensor(number, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def heard(self, text: str) -> str:
        first = -self.agreed(-self.rank if text else -self.world_size)
        if first == self.world_size:
            return ""
        said = list(text.encode("utf-8", "surrogateescape")) if self.rank == first else []
        letters = torch.zeros(self.agreed(len(said)), dtype=torch.uint8, device=self.device)
        letters[: len(said)] = torch.tensor(said, dtype=torch.uint8)
        dist.broadcast(letters, src=first)
        return bytes(letters.tolist()).decode("utf-8", "surrogateescape")

    def averaged(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        names = sorted(values)  # one exchange, in an order that all processes share
        flat = torch.stack([values[name].detach().float().reshape(()) for name in names])
        dist.all_reduce(flat)
        means = dict(zip(names, (flat / self.world_size).tolist(), strict=True))
        return {name: means[name] for name in values}

    def barrier(self) -> None:
        self.agreed(0)  # which works with every backend

    def gather(self, rows: Tensor) -> Tensor:
        from torch.distributed.nn.functional import all_gather

        return torch.cat(list(all_gather(rows)))  # type: ignore[no-untyped-call]


def join(device: torch.device) -> None:
    """Join the process group that torchrun set up, if that has not been done."""
    if dist.is_initialized():
        return
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
