"""Which of several processes of one command this one is, as torchrun tells them."""

import os
from typing import NamedTuple

from unclip.checks import shown


class Process(NamedTuple):
    """The `rank`-th, from 0 on, of `processes`."""

    rank: int = 0
    processes: int = 1


def this_process() -> Process:
    """From RANK and WORLD_SIZE of the environment; the only one where they are not set.

    Raises:
        ValueError: they are no whole numbers, or there are not so many processes.
    """
    rank, count = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if rank >= count:
        raise ValueError(
            f"RANK={rank} and WORLD_SIZE={count} in the environment do not fit: processes count "
            "from 0 on; start them by torchrun, or unset both"
        )
    return Process(rank, count)


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(
            f"{name} in the environment is {shown(text)}, not a whole number: start several "
            "processes by torchrun, or unset it"
        )
    return int(text)
