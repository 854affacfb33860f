"""The stream of training batches: step number in, the same batch out, on any number of processes.

The whole state of the data is one integer, the step: nothing else is saved or restored on resume.
Shapes: N images per batch and rank, C = 3 channels, H height, W width.
"""

import atexit
import ctypes
import itertools
import logging
import multiprocessing.queues
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.util import Finalize
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from unclip.batch import Batch
from unclip.data.captions import ENDLESS
from unclip.data.sources import Sample, Source, Stream, read
from unclip.randomness import Draws, mix

_log = logging.getLogger(__name__)
_ROUNDS = 8
_STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Order:
    """Position 0, 1, 2, ... in the stream -> index into a source, without end.

    Each run of `length` positions is one epoch and holds every image once, in an order of its own.
    Position k of epoch e gives e * length + (image number): sources take indices beyond their
    length as the same images with fresh crops and captions. No permutation is stored: it is a
    Feistel network over the next power of four, walked until it lands below `length` (Black and
    Rogaway, 2002), so that a billion images cost no memory.

    shuffle = False is the identity, for sources whose indices are independent draws already.
    """

    length: int
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError("there are no images to put in order")

    @classmethod
    def of(cls, source: Source | Stream, seed: int = 0) -> "Order":
        """The order that suits the data: shuffled, or the identity for endless ones and streams."""
        if isinstance(source, Stream):
            return cls(ENDLESS, seed, shuffle=False)
        return cls(len(source), seed, shuffle=not source.endless)

    def __call__(self, position: int) -> int:
        assert position >= 0, position
        if not self.shuffle:
            return position
        epoch, place = divmod(position, self.length)
        return epoch * self.length + self._permuted(place, Draws(self.seed, epoch).state)

    def _permuted(self, place: int, key: int) -> int:
        half = max(1, ((self.length - 1).bit_length() + 1) // 2)  # bits
        mask = (1 << half) - 1
        while True:
            left, right = place >> half, place & mask
            for turn in range(_ROUNDS):
                left, right = right, left ^ (mix(key ^ (right * _ROUNDS + turn)) & mask)
            place = left << half | right
            if place < self.length:
                return place


def batches(
    source: Source | Stream,
    order: Order,
    batch_size: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    numbered: bool = False,
) -> Generator[Batch, None, None]:
    """The batches of step `start_step`, `start_step` + 1, ..., without end, images as uint8.

    Step k holds the samples at positions k * batch_size, ... of the order, so that the step alone
    resumes a run. A stream is read from the first of them, by every rank and worker, each of which
    passes over what is not its own.

    batch_size: images per step over all ranks; rank r gets the r-th contiguous slice of them.
    numbered: whether batches say their samples' numbers in the order, "samples" (N,).
    num_workers: processes that load ahead; the batches are the same for any number. Workers compute
    on one thread, leave Ctrl-C and a first SIGTERM to the main process, and die with it. Close the
    iterator (or drop it) to end them.

    The global random state of torch is neither used nor changed. Images that cannot be decoded are
    logged once each as warnings. ValueError for impossible numbers, from the source, and where the
    system ends a worker.
    """
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size} processes does not exist")
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(
            f"batch_size {batch_size} cannot be split evenly over {world_size} processes; "
            f"choose a multiple of {world_size}"
        )
    if num_workers < 0 or start_step < 0:
        raise ValueError("num_workers and start_step must be 0 or more")
    if isinstance(source, Stream) and order.shuffle:
        raise ValueError("a stream is read in its own order; take Order.of(source)")
    share = batch_size // world_size
    first = start_step * batch_size + rank * share
    steps = _Steps(source, order, first, share, batch_size, numbered)
    return _finished(steps, num_workers)


def _finished(steps: "_Steps", num_workers: int) -> Generator[Batch, None, None]:
    warned: set[str] = set()
    for raw in _raw(steps, num_workers):
        if "error" in raw:  # a worker's ValueError, without the traceback of another process
            raise ValueError(raw["error"])
        for name in raw["unreadable"]:
            if name not in warned:
                warned.add(name)
                _log.warning("%s; another image takes its place", name)
        yield _batch(raw)


def batch_of(samples: Sequence[Sample]) -> Batch:
    """Samples as a batch."""
    return _batch(_stacked(samples))


def _batch(raw: dict[str, Any]) -> Batch:
    tensors = {name: torch.from_numpy(values) for name, values in raw["tensors"].items()}
    if "image" in tensors:
        tensors["images"] = tensors.pop("image")  # (N, 3, H, W) uint8
    return {**tensors, "captions": raw["captions"]}


def _raw(steps: "_Steps", num_workers: int) -> Iterator[dict[str, Any]]:
    if num_workers == 0:
        yield from steps
        return
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else None
    with warnings.catch_warnings():
        # More workers than cores are the caller's choice.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = DataLoader(
            steps,
            batch_size=None,  # a step is a whole batch already
            num_workers=num_workers,
            collate_fn=_packed,
            worker_init_fn=partial(_start_worker, parent),
            generator=torch.Generator(),  # without one it draws from the global random state
        )
        with _signals_held(), _handler_kept():
            held = [iter(loader)]
    # Dropping the iterator ends its workers; at exit that must come before torch's and Python's
    # own clean-up, which would wait for ever for workers that nobody has told to stop. Programs
    # run `atexit` first, processes that `multiprocessing` started only its own finalizers.
    drop = Finalize(None, held.clear, exitpriority=100)  # the queues close at 10
    atexit.register(drop)
    try:
        while True:
            yield pickle.loads(next(held[0]))
    except RuntimeError as error:
        if "exited unexpectedly" in str(error) or "is killed by" in str(error):
            raise ValueError(
                "a process that loads images was ended by the system, perhaps for want of memory; "
                "take fewer data.workers, or 0 to load images in the main process"
            ) from None
        raise
    finally:
        drop()
        atexit.unregister(drop)


class _Steps(IterableDataset[dict[str, Any]]):
    """This rank's parts of the batches, or every n-th of them in one of n workers.

    Args:
        first: position of the rank's first sample.
        share: samples of a part.
        stride: positions from one part to the next.
        numbered: whether parts say their samples' numbers.
    """

    def __init__(
        self,
        source: Source | Stream,
        order: Order,
        first: int,
        share: int,
        stride: int,
        numbered: bool,
    ) -> None:
        self.source, self.order, self.numbered = source, order, numbered
        self.first, self.share, self.stride = first, share, stride

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()  # batches are taken from the workers in turn
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        starts = itertools.count(self.first + number * self.stride, workers * self.stride)
        wanted = (self.order(start + i) for start in starts for i in range(self.share))
        numbers, asked = itertools.tee(wanted)
        samples = read(self.source, asked)
        try:
            while part := list(itertools.islice(samples, self.share)):
                if len(part) < self.share:
                    break
                raw, own = _stacked(part), list(itertools.islice(numbers, self.share))
                if self.numbered:
                    raw["tensors"]["samples"] = np.array(own)
                yield raw
        except ValueError as error:
            yield {"error": str(error)}
            return
        yield {"error": "the stream of images has ended, though it should go on without end"}


def _stacked(samples: Sequence[Sample]) -> dict[str, Any]:
    names = [name for name, value in samples[0].items() if isinstance(value, Tensor)]
    return {
        "tensors": {  # as arrays, (N, …)
            name: _together([cast(dict[str, Tensor], one)[name] for one in samples]).numpy()
            for name in names
        },
        "captions": [sample["caption"] for sample in samples],
        "unreadable": [name for sample in samples for name in sample.get("unreadable", ())],
    }


def _together(several: list[Tensor]) -> Tensor:
    """Tensors (…) as one (N, …), filled up with zeros to the longest where they are of several
    lengths."""
    if len({one.shape for one in several}) == 1:
        return torch.stack(several)
    return torch.nn.utils.rnn.pad_sequence(several, batch_first=True)


def _packed(raw: Any) -> bytes:
    """What a worker hands over. As bytes it goes through a pipe; tensors would go through shared
    memory, which containers keep small, and a socket below TMPDIR, whose path may be too long."""
    return pickle.dumps(raw, protocol=5)  # arrays are copied once


@contextmanager
def _signals_held() -> Iterator[None]:
    """Workers inherit the mask: a signal that comes before they are ready for it waits for them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handler_kept() -> Iterator[None]:
    """Without torch's handler of SIGCHLD, which raises an error wherever the main process happens
    to be when a worker dies; the iterator finds out by itself within 5 s."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)


def _start_worker(parent: int | None, worker: int) -> None:
    """Quiet, obedient workers: the main process decides when to stop, and none outlives it."""
    torch.set_num_threads(1)
    # A batch that cannot be sent would be waited for without end.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _obey_the_second)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    # The kernel kills a worker when the thread that started it ends; torch's own watch takes 5 s.
    if parent is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(0)


def _end(error: BaseException, batch: object) -> None:
    print(f"a process that loads images cannot hand over a batch: {error!r}", file=sys.stderr)
    os._exit(1)


def _obey_the_second(signum: int, frame: object) -> None:
    """A signal to the whole group stops training in the main process, which still needs batches
    to reach its checkpoint; a second one, as Python sends at exit, ends the worker."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
