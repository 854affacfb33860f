"""Threads: whether a second one helps, which on a busy machine it does not."""

import os
import time
from typing import Final

import torch
import torch.nn.functional as F

_ROWS, _WIDTH = 64, 192  # a small network's layer
_LAYERS: Final = 8
_ENOUGH: Final = 0.25  # seconds
_BUSY = 1.5  # programs that want to compute, for each core


def is_crowded() -> bool:
    """Whether so many other programs compute that threads of one step wait for each other."""
    if torch.get_num_threads() < 2 or not hasattr(os, "getloadavg"):
        return False
    return os.getloadavg()[0] > _BUSY * (os.cpu_count() or 1)


def layer_seconds(threads: int, rounds: int = 40) -> float:
    """Mean seconds of small layers, one after the other, on so many threads of this process.

    Where they are slow, a quarter of a second of them is enough.

    A mean and not the best: threads that wait for each other at every kernel, because a core does
    other work, are late now and then. The process has as many threads afterwards as before.
    """
    before = torch.get_num_threads()
    x, weight = torch.randn(_ROWS, _WIDTH), torch.randn(_WIDTH, _WIDTH) / _WIDTH**0.5
    torch.set_num_threads(threads)
    try:
        F.gelu(x @ weight)  # starts the threads
        start = time.perf_counter()
        done, took = 0, 0.0
        while done < rounds * _LAYERS and took < _ENOUGH:
            F.gelu(x @ weight)
            done, took = done + 1, time.perf_counter() - start
        return took / done
    finally:
        torch.set_num_threads(before)
