"""Threads: whether a second one helps, and work side by side, each piece on a thread of its own."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import torch
import torch.nn.functional as F

T = TypeVar("T")
_here = threading.local()
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


def side_by_side(work: Sequence[Callable[[], T]], stop: Callable[[], Any]) -> list[T]:
    """What each piece of work gives, in their order: as many at once as this thread has threads,
    each on one, so that every result is that of one thread to the last bit.

    Small networks gain little by a second thread within their layers (docs/performance.md).
    Gradients are not recorded.

    Args:
        stop: ends what has begun; called where a piece fails or the user interrupts.
    """
    before = torch.get_num_threads()
    workers = min(before, len(work))
    try:
        with ThreadPoolExecutor(workers, initializer=_be_one_of, initargs=(workers,)) as pool:
            begun = [pool.submit(torch.no_grad()(piece)) for piece in work]
            try:
                return [future.result() for future in begun]
            except BaseException:
                stop()
                for future in begun:
                    future.cancel()
                raise
    finally:
        torch.set_num_threads(before)


def neighbours() -> int:
    """How many threads work side by side, this one included."""
    return int(getattr(_here, "workers", 1))


def _be_one_of(workers: int) -> None:
    _here.workers = workers
    torch.set_num_threads(1)
