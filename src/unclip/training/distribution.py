"""Several processes on one batch: started by torchrun, gradients averaged after the backward."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unclip.device.precision import device_named


@dataclass(frozen=True)
class Processes:
    """This process's rank among `world_size`, and the device that it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0


def start_processes(device: str = "auto") -> Processes:
    """Join the process group that torchrun set up, if any; otherwise be alone."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    place = device_named(device)
    if place.type == "cuda" and place.index is None:
        place = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
        torch.cuda.set_device(place)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    return Processes(rank, world_size, place)


def same_weights(network: nn.Module, world_size: int) -> None:
    """Give every process the first one's weights."""
    if world_size > 1:
        for parameter in network.parameters():
            dist.broadcast(parameter.data, src=0)


def agreed(signal: int, processes: Processes) -> int:
    """The largest of the processes' numbers: they stop together, or would wait for each other."""
    if processes.world_size == 1:
        return signal
    number = torch.tensor(signal, device=processes.device)
    dist.all_reduce(number, dist.ReduceOp.MAX)
    return int(number)


def averaged(values: Mapping[str, Tensor], processes: Processes) -> dict[str, float]:
    """Scalars' means over the processes, in one exchange; all have the same names in any order."""
    names = sorted(values)
    flat = torch.stack([values[name].detach().float().reshape(()) for name in names])
    if processes.world_size > 1:
        dist.all_reduce(flat)
        flat /= processes.world_size
    means = dict(zip(names, flat.tolist(), strict=True))
    return {name: means[name] for name in values}


def average_gradients(parameters: Iterable[nn.Parameter], world_size: int) -> None:
    """Replace every gradient by its mean over the processes, in one exchange."""
    if world_size == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= world_size
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
