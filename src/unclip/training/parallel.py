"""How processes share a run: alone, or each with the whole network and a part of every batch.

Whatever touches parameters, gradients or the optimiser's state *across processes* goes through
`Parallel`; nothing else in the package calls torch.distributed. Another way to share a run, such as
FSDP2's shards, is another class with these methods and a row in `start_parallel`
(docs/extending.md).

A parameter, its gradient, its average and its moments are all of one kind: whole tensors in the
classes here, DTensors where each process keeps a shard. Both know arithmetic, so what goes element
by element (AdamW, the moving average, SAM's step there and back, momentum) asks nobody. What needs
all elements of a tensor asks for `full`, and gives its result back through `shard`.

A method that is **collective** exchanges something between processes. All of them call it, in the
same order and with the same names and shapes, or those that do wait for ever; so no `if main`
around one. The others are local.

Shapes: N rows of this process, M rows of all processes.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unclip.device.precision import device_named
from unclip.stages.base import Replicas


class Parallel(Replicas, Protocol):
    """This process among those that train together."""

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        ...

    @property
    def device(self) -> torch.device:
        """What this one computes on."""
        ...

    @property
    def main(self) -> bool:
        """Whether this is the one that writes files and speaks to the user."""
        ...

    @property
    def sharded(self) -> bool:
        """Whether a network computes only where all processes compute it together."""
        ...

    # ---- the network ---------------------------------------------------------------------------

    def prepare(self, network: nn.Module) -> None:
        """Take a network to the device, with the main process's weights. Collective.

        In place, as its stage holds it. Whoever shards replaces its parameters here: before the
        optimiser and the average are made of them.
        """
        ...

    def full(self, tensor: Tensor) -> Tensor:
        """All of a parameter, gradient, moment or average. Collective."""
        ...

    def shard(self, full: Tensor, like: Tensor) -> Tensor:
        """This process's part of a whole tensor, divided as `like` is: what `full` undoes.

        Every process has the same `full`.
        """
        ...

    def full_weights(self, network: nn.Module) -> AbstractContextManager[None]:
        """A block in which the network's parameters are whole tensors, to be saved. Collective.

        The network computes nothing in it.
        """
        ...

    def computed(self, network: nn.Module) -> None:
        """After the network has computed what has no backward pass: let go of what was gathered
        for it, as other weights may come into its place. Collective.
        """
        ...

    # ---- gradients -----------------------------------------------------------------------------

    def average_gradients(self, network: nn.Module) -> None:
        """Replace every gradient by its mean over the processes. Collective.

        Called once after all parts of a batch; gradients that the backward pass has averaged
        already stay as they are.
        """
        ...

    def clip_gradients(self, network: nn.Module, largest: float) -> Tensor:
        """Scale averaged gradients to a norm of `largest` at most; their norm before. Collective.

        The norm is a plain scalar, the same in all processes.
        """
        ...

    def replica_norm(self, gradients: Iterable[Tensor]) -> Tensor:
        """The norm of one replica's gradients together, before they are averaged, for SAM.

        A replica is a whole network: that of this process, or of those that share it. Collective
        among these.
        """
        ...

    # ---- agreement -----------------------------------------------------------------------------

    def agreed(self, number: int) -> int:
        """The largest of the processes' numbers: they stop together. Collective."""
        ...

    def heard(self, text: str) -> str:
        """What the first process says that says anything, which all of them hear. Collective."""
        ...

    def averaged(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Scalars' means over the processes; all have the same names. Collective."""
        ...

    def barrier(self) -> None:
        """Wait until all processes are here. Collective."""
        ...


class Alone:
    """One process, which has everything: nothing is exchanged."""

    rank, world_size, main, sharded = 0, 1, True, False

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, network: nn.Module) -> None:
        network.to(self.device)

    def full(self, tensor: Tensor) -> Tensor:
        return tensor

    def shard(self, full: Tensor, like: Tensor) -> Tensor:
        return full

    def full_weights(self, network: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def computed(self, network: nn.Module) -> None:
        pass

    def average_gradients(self, network: nn.Module) -> None:
        pass

    def clip_gradients(self, network: nn.Module, largest: float) -> Tensor:
        norm: Tensor = torch.nn.utils.clip_grad_norm_(network.parameters(), largest)
        return norm

    def replica_norm(self, gradients: Iterable[Tensor]) -> Tensor:
        norm: Tensor = torch.stack([gradient.norm() for gradient in gradients]).norm()
        return norm

    def agreed(self, number: int) -> int:
        return number

    def heard(self, text: str) -> str:
        return text

    def averaged(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        names, flat = _stacked(values)
        return _named(values, names, flat)

    def barrier(self) -> None:
        pass

    def gather(self, rows: Tensor) -> Tensor:
        return rows


class Averaged(Alone):
    """Every process has the whole network and a part of each batch; gradients are averaged.

    One exchange after the backward pass, of all gradients together. Everything else is as alone,
    since every process does the same with the same numbers.
    """

    def __init__(self, rank: int, world_size: int, device: torch.device) -> None:
        super().__init__(device)
        self.rank, self.world_size, self.main = rank, world_size, rank == 0

    def prepare(self, network: nn.Module) -> None:
        super().prepare(network)
        for parameter in network.parameters():
            dist.broadcast(parameter.data, src=0)

    def average_gradients(self, network: nn.Module) -> None:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world_size
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

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
        names, flat = _stacked(values)
        dist.all_reduce(flat)
        flat /= self.world_size
        return _named(values, names, flat)

    def barrier(self) -> None:
        self.agreed(0)  # which works with every backend

    def gather(self, rows: Tensor) -> Tensor:
        from torch.distributed.nn.functional import all_gather

        return torch.cat(list(all_gather(rows)))  # type: ignore[no-untyped-call]


def start_parallel(device: str = "auto") -> Parallel:
    """Join the process group that torchrun set up, if any; otherwise be alone."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    place = device_named(device)
    if place.type == "cuda" and place.index is None:
        place = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
        torch.cuda.set_device(place)
    if world_size == 1:
        return Alone(place)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    return Averaged(rank, world_size, place)


def _stacked(values: Mapping[str, Tensor]) -> tuple[list[str], Tensor]:
    """Scalars in one tensor, for one exchange, in an order that all processes share."""
    names = sorted(values)
    return names, torch.stack([values[name].detach().float().reshape(()) for name in names])


def _named(values: Mapping[str, Tensor], names: list[str], flat: Tensor) -> dict[str, float]:
    means = dict(zip(names, flat.tolist(), strict=True))
    return {name: means[name] for name in values}
