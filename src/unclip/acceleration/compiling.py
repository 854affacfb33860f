"""What torch compiles of networks: in sampling their steps, in training their units."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
_VARIANTS = 256  # of a function, for widths, batches and lengths; torch's own 8 then run uncompiled


def _keep_apart() -> None:
    """Have torch reuse compiled code only where the CPU's instructions are those it was made for.

    Its cache outlives a process, and the machine where a disk moves to another. Its keys do not
    name the instructions, yet the loops in it step by the width of one CPU's vectors: with
    another's they write past their arrays.
    """
    config, ours = torch.compiler.config, torch.backends.cpu.get_cpu_capability()
    if not config.cache_key_tag.endswith(ours):  # which may hold the user's own
        config.cache_key_tag += ours


def check_compiler(device: torch.device, instead: str) -> None:
    """Compile something small: what compilers need is missing on many machines.

    Args:
        instead: what to do about it.

    Raises:
        ValueError: torch cannot compile for the device.
    """
    _keep_apart()
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"torch cannot compile for the device {device} here ({reason}): {instead}"
        ) from None


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function as torch compiles it, at its first call and for each new kind of arguments."""
    import torch._dynamo

    _keep_apart()
    config = torch._dynamo.config
    # All networks of a class share their functions.
    config.recompile_limit = max(config.recompile_limit, _VARIANTS)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 4 * _VARIANTS)
    return torch.compile(function)
