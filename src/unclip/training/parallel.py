"""How processes share a run: alone, as replicas (DDP), or each with a shard of all (FSDP2).

Whatever touches parameters, gradients or the optimiser's state *across processes* goes through
`Parallel`. `Alone` is one process; `replicated.py` and `sharded.py` have the others. Another way to
share a run is another class with these methods and a line in `start_parallel` (docs/extending.md).

A parameter, its gradient, its average and its moments are all of one kind: whole tensors, or
DTensors where each process keeps a shard. Both know arithmetic, so what goes element by element
(AdamW, the moving average, SAM's step there and back, momentum) asks nobody. What needs all
elements of a tensor asks for `full`, and gives its result back through `shard`.

A method that is **collective** exchanges something between processes. All of them call it, in the
same order and with the same names and shapes, or those that do wait for ever; so no `if main`
around one. The others are local.

Shapes: N rows of this process, M rows of all processes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from unclip.batch import Batch
from unclip.device.precision import device_of_process
from unclip.device.processes import this_process
from unclip.stages.base import Replicas, Stage

_LOST = re.compile(r"Dist\w*Error|gloo.*(by peer|[Tt]imed out|Broken pipe)|NCCL", re.DOTALL)


class Trained(nn.Module):
    """A stage as a module, whose `forward` is its loss.

    Whatever of its network a stage calls, and how often, is so within one forward pass, which is
    what DDP's and FSDP2's hooks go around.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.network = stage.network
        self.stage = stage

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The stage's loss."""
        return self.stage.loss(batch, generator)

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """The stage's preview."""
        return self.stage.preview(batch, generator)

    def unaveraged(self) -> AbstractContextManager[None]:
        """A block whose passes add gradients up in the replica that computes them: they are
        exchanged by the next pass outside of it, the sums."""
        return nullcontext()


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

    def prepare(self, stage: Stage, dtype: torch.dtype) -> Trained:
        """Take a stage's network to the device, with the main process's weights. Collective.

        In place, as its stage holds it. Whoever shards replaces its parameters here: before the
        optimiser and the average are made of them.

        Args:
            dtype: what the network computes in.

        Returns:
            What computes the stage's losses, whose backward pass leaves gradients that are means
            over all processes.
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

    def computed(self, trained: Trained) -> None:
        """After what has no backward pass was computed: let go of what was gathered for it, as
        other weights may come into its place. Local.
        """
        ...

    def regather(self, trained: Trained) -> None:
        """Within a pass, after other weights came into the network's place: gather them instead of
        those that were gathered for it. Collective."""
        ...

    # ---- gradients -----------------------------------------------------------------------------

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

    def prepare(self, stage: Stage, dtype: torch.dtype) -> Trained:
        stage.network.to(self.device)
        return Trained(stage)

    def full(self, tensor: Tensor) -> Tensor:
        return tensor

    def shard(self, full: Tensor, like: Tensor) -> Tensor:
        return full

    def full_weights(self, network: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def computed(self, trained: Trained) -> None:
        pass

    def regather(self, trained: Trained) -> None:
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
        return {name: float(value.detach().float()) for name, value in values.items()}

    def barrier(self) -> None:
        pass

    def gather(self, rows: Tensor) -> Tensor:
        return rows


@contextmanager
def others_needed() -> Iterator[None]:
    """A block that several processes do together: where one has died, the others say so and end.

    Raises:
        ValueError: one has died, or cannot be reached any more.
    """
    try:
        yield
    except RuntimeError as error:
        if not _LOST.search(f"{type(error).__name__}: {error}"):
            raise
        raise ValueError(
            "another process of this run has ended, or cannot be reached any more; the last "
            "checkpoint is kept: give the command again with --resume, in as many processes or in "
            "another number"
        ) from None


def start_parallel(device: str = "auto", shard: bool = False) -> Parallel:
    """Join the process group that torchrun set up, if any; otherwise be alone.

    Args:
        shard: of several processes, each keeps a shard of the network and not all of it.
    """
    rank, world_size = this_process()
    place = device_of_process(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world_size == 1:
        return Alone(place)
    from unclip.training.replicated import Replicated, join
    from unclip.training.sharded import Sharded

    join(place)
    parallel: Parallel = (Sharded if shard else Replicated)(rank, world_size, place)
    parallel.barrier()  # nobody whose input is refused leaves while others still connect to it
    return parallel
