"""Several processes, each with the whole network and a part of every batch (DDP)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unclip.batch import Batch
from unclip.stages.base import Stage
from unclip.training.parallel import Alone, Trained


class Replica(Trained):
    """One of several, whose gradients are averaged while the backward pass goes on.

    DDP puts them into buckets and exchanges each as soon as it is full. A parameter that no process
    uses has no gradient, as alone: DDP looks for those at each step if the first loss leaves any
    out, and else, as that takes its time, refuses a later one that does.
    """

    def __init__(self, stage: Stage, parallel: "Replicated") -> None:
        super().__init__(stage)
        self.parallel, self.apart = parallel, False
        self.replica: DistributedDataParallel | None = None

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        if not torch.is_grad_enabled():
            return super().forward(batch, generator)
        if self.replica is None:
            unused = self.parallel.agreed(len(self._unused(batch, generator)))
            self.replica = DistributedDataParallel(
                Trained(self.stage),
                init_sync=False,  # the weights are those of the main process already
                gradient_as_bucket_view=True,
                find_unused_parameters=unused > 0,
            )
        with self.replica.no_sync() if self.apart else nullcontext():
            losses: dict[str, Tensor] = self.replica(batch, generator)
        return losses

    @contextmanager
    def unaveraged(self) -> Iterator[None]:
        before, self.apart = self.apart, True
        try:
            yield
        finally:
            self.apart = before

    def _unused(self, batch: Batch, generator: torch.Generator) -> set[Tensor]:
        """Trained parameters that the loss does not depend on; nothing is drawn for it."""
        drawing = [generator, getattr(generator, "whole", generator)]
        states = [one.get_state() for one in drawing]
        device = self.parallel.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            loss = super().forward(batch, generator)["loss"]
        for one, state in zip(drawing, states, strict=True):
            one.set_state(state)
        unused: set[Tensor] = {p for p in self.network.parameters() if p.requires_grad}
        ahead, seen = [loss.grad_fn], set()
        while ahead:
            node = ahead.pop()
            if node is not None and node not in seen:
                seen.add(node)
                unused.discard(getattr(node, "variable", loss))
                ahead += [following for following, _ in node.next_functions]
        return unused


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
        self.spread(stage.network)
        return Replica(stage, self)

    def spread(self, network: nn.Module) -> None:
        """Give all processes the main one's weights."""
        for parameter in network.parameters():
            dist.broadcast(parameter.data, src=0)

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
        gathered: Tensor = _Gathered.apply(rows, self.rank, self.world_size)  # type: ignore[no-untyped-call]
        return gathered


class _Gathered(torch.autograd.Function):
    """Rows (N, …) of all processes (M, …), whose gradients go back to where the rows are from."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, world_size: int) -> Tensor:
        ctx.rank, ctx.count = rank, len(rows)
        parts = [torch.empty_like(rows) for _ in range(world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        whole = gradient.contiguous().clone()
        dist.all_reduce(whole)
        return whole[ctx.rank * ctx.count :][: ctx.count], None, None


def join(device: torch.device) -> None:
    """Join the process group that torchrun set up, if that has not been done."""
    if dist.is_initialized():
        return
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
