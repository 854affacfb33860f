"""Features of image files, on one process or several.

Files are read at their own size and resized by the extractor alone. Which images are computed at
once follows from the files, not from the number of processes: features are the same for any.

Shapes: N images, H × W pixels, D width of features.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from unclip.checks import whole_number
from unclip.data.transforms import open_image, to_bytes
from unclip.evaluation.features.extractor import Extractor, features_of, open_extractor
from unclip.pixels import to_signed

BATCH: Final = 16
"""Images computed at once: on CPUs larger batches are no faster, and leave the cache."""
_PIXELS: Final = 2**24  # of a batch, so that photographs do not fill the memory
_TASK: Final = 64  # files that a process is given at a time
_opened: Extractor | None = None  # in a process of the pool


def read_images(files: Sequence[Path], batch: int = BATCH) -> Iterator[Tensor]:
    """Images of files in their order, (N, 3, H, W) in [-1, 1]; those of one size in a row together.

    Raises:
        ValueError: one cannot be read.
    """
    waiting: list[Tensor] = []
    for file in files:
        pixels = to_bytes(open_image(file))
        most = max(1, min(batch, _PIXELS // pixels[0].numel()))
        if waiting and (waiting[0].shape != pixels.shape or len(waiting) >= most):
            yield to_signed(torch.stack(waiting))
            waiting = []
        waiting.append(pixels)
    if waiting:
        yield to_signed(torch.stack(waiting))


def features_of_files(
    name: str | Path,
    files: Sequence[Path],
    processes: int = 1,
    device: str = "auto",
    progress: Callable[[int], Any] = lambda count: None,
) -> Tensor:
    """Features (N, D) of image files, in their order.

    Args:
        name: of the extractor, or its folder; see `open_extractor`.
        processes: that compute, each on one thread of a CPU; 1 computes here, on `device`.
        progress: is told how many more images are done.

    Raises:
        ValueError: see `open_extractor`; there is no file, one cannot be read, or a process was
            killed.
    """
    whole_number(processes, "processes", 1, 256)
    extractor = open_extractor(name, device="cpu" if processes > 1 else device)
    if not files:
        raise ValueError("there are no images to take features of")
    tasks = [files[first : first + _TASK] for first in range(0, len(files), _TASK)]
    found = []
    if processes == 1:
        for task in tasks:
            found.append(features_of(extractor, read_images(task)))
            progress(len(task))
        return torch.cat(found)
    with ProcessPoolExecutor(
        min(processes, len(tasks)), multiprocessing.get_context("spawn"), _begin, (name,)
    ) as pool:
        try:
            for task, features in zip(tasks, pool.map(_computed, tasks), strict=True):
                found.append(torch.from_numpy(features))
                progress(len(task))
        except BrokenProcessPool:
            raise ValueError(
                "a process that computed features was killed, perhaps for memory; take fewer"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return torch.cat(found)


def _begin(name: str | Path) -> None:
    """Of a process of the pool."""
    global _opened
    torch.set_num_threads(1)
    _opened = open_extractor(name, device="cpu")


def _computed(task: Sequence[Path]) -> Any:
    """As an array: tensors would go through shared memory, which containers keep small."""
    assert _opened is not None
    return features_of(_opened, read_images(task)).numpy()
