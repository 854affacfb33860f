"""Random numbers for the rows of a batch: the same however many processes share the batch.

What a stage's loss draws belongs to images. Where each of several processes has some of a batch's
rows, all of them draw for every row, from equal generators, and take their own: noise is cheap
beside a network, and a batch is then the same batch on any number of processes.

Shapes: N rows of this process, M rows of all processes.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor


class RowsGenerator(torch.Generator):
    """A generator of one process among several, which have equally many rows of a batch.

    torch's own functions draw from it what no other process draws. Those of this file draw from
    `whole`, whose numbers are the same in all processes.
    """

    def __new__(cls, device: torch.device, rank: int, processes: int) -> Self:
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(self, device: torch.device, rank: int, processes: int) -> None:
        self.rank, self.processes = rank, processes
        self.whole = torch.Generator(device)


def uniform(count: int, *shape: int, generator: torch.Generator) -> Tensor:
    """(N, …) in [0, 1) on the generator's device, for N = `count` rows of this process."""
    return _rows(
        count,
        generator,
        lambda rows, own: torch.rand(rows, *shape, generator=own, device=own.device),
    )


def normal(count: int, *shape: int, generator: torch.Generator) -> Tensor:
    """(N, …) of mean 0 and variance 1, likewise."""
    return _rows(
        count,
        generator,
        lambda rows, own: torch.randn(rows, *shape, generator=own, device=own.device),
    )


def integers(below: int, count: int, *shape: int, generator: torch.Generator) -> Tensor:
    """(N, …) from 0 to `below` - 1, likewise."""
    return _rows(
        count,
        generator,
        lambda rows, own: torch.randint(below, (rows, *shape), generator=own, device=own.device),
    )


def first_row(count: int, generator: torch.Generator) -> int:
    """Which of the whole batch's rows the first of this process's `count` rows is."""
    return generator.rank * count if isinstance(generator, RowsGenerator) else 0


def _rows(
    count: int, generator: torch.Generator, draw: Callable[[int, torch.Generator], Tensor]
) -> Tensor:
    if not isinstance(generator, RowsGenerator):
        return draw(count, generator)
    first = first_row(count, generator)
    return draw(generator.processes * count, generator.whole)[first : first + count].clone()
