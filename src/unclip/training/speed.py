"""How long a step of a job takes on this machine, by real steps of it."""

import time
from collections.abc import Callable
from itertools import repeat
from typing import TypeVar

from unclip.batch import Batch
from unclip.training.job import Job
from unclip.training.loop import Trainer

T = TypeVar("T")
_FEW = 2  # images of the smallest step that is measured
_AFFORDED = 1.0  # seconds: a step that took as long is not followed by one of more images
_STEPS = 3  # of each size, of which the fastest counts: other programs only ever add


def seconds_a_step(job: Job, batch_size: int) -> float:
    """Seconds of a whole step of `batch_size` images: loading, both passes, optimiser and average.

    Where a whole step would take long, steps of fewer images are measured, and a line through two
    of them goes on to it: an optimiser takes its time for any number of images.
    The job's weights are moved, and nothing is written.
    """
    parts = job.data.batches(0)
    loading, batch = _timed(lambda: next(parts))
    parts.close()
    there = min(batch_size, len(batch["captions"]))
    trainer = Trainer(job)
    _step(trainer, batch, _FEW)  # warms up
    measured: list[tuple[int, float]] = []
    for images in sorted({min(size, there) for size in (_FEW, 8, 32, there)}):
        if len(measured) < 2 or measured[-1][1] < _AFFORDED:
            seconds = min(_step(trainer, batch, images) for _ in range(_STEPS))
            measured.append((images, seconds))
    return _extended(measured, batch_size) + loading * batch_size / len(batch["captions"])


def _extended(measured: list[tuple[int, float]], images: int) -> float:
    """Seconds of a step of so many images, by those of steps of fewer."""
    (before, less), (last, seconds) = measured[0], measured[-1]
    each = max(seconds - less, 0.0) / max(1, last - before)
    return seconds + each * (images - last)


def _step(trainer: Trainer, batch: Batch, images: int) -> float:
    """Seconds of one step of the first `images` of a batch."""
    few: Batch = {key: value[:images] for key, value in batch.items()}
    trainer.parts = repeat(few)  # type: ignore[assignment]
    trainer.state.step = 0  # of a run that may have fewer steps than are measured
    return _timed(trainer.step)[0]


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
