"""What a recipe asks of this machine's memory, refused before any of it is taken.

Linux gives memory that it does not have and ends the program later, without a word.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from unclip.checks import many

TRAINED = {"weights": 4, "gradients": 4, "moments": 8}
"""Bytes of a parameter under training: in fp32, with AdamW's two moments."""
_BUILT = 4  # of them, what a network takes before it moves to a GPU
_PIXEL = 3 * 5  # bytes: as read and, beside that, as floats
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int:
    """Bytes that this process can have at most: the machine's, or what its container is given."""
    sizes = [2**63 - 1]  # where nothing says it, as on Windows
    with suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in _LIMITS:
        with suppress(ValueError, OSError):  # "max", or another system
            sizes.append(int(Path(limit).read_text()))
    return min(size for size in sizes if size > 0)


@contextmanager
def parameters_within_memory(device: torch.device) -> Iterator[None]:
    """A block that builds networks of no more parameters than this machine can train.

    They are counted as modules get them: before they are filled, which is when memory is taken.

    Raises:
        ValueError: there are more.
    """
    bytes_each = sum(TRAINED.values()) if device.type == "cpu" else _BUILT
    most, count, thread = machine_memory() // bytes_each, 0, threading.get_ident()

    def counted(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        if parameter is None or parameter.is_meta or threading.get_ident() != thread:
            return
        count += parameter.numel()
        if count > most:
            raise ValueError(
                f"the network has more than {most:,} parameters, which with gradients and moments "
                f"take more than this machine's {machine_memory() / 2**30:,.0f} GiB of memory; "
                "give it fewer layers or smaller widths"
            )

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()


def check_images(count: int, side: int) -> None:
    """Refuse a part of a batch, `count` images of `side` pixels, that memory cannot hold.

    Raises:
        ValueError: it is so large.
    """
    needed, there = count * side**2 * _PIXEL, machine_memory()
    if needed > there:
        raise ValueError(
            f"{many(count, 'images')} of {side} pixels a side take {needed / 2**30:,.0f} GiB "
            f"before anything is computed from them, and this machine has {there / 2**30:,.0f}: "
            "lower training.batch_size, raise training.accumulation, or take smaller images "
            "(data.size)"
        )
