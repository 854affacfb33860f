"""Scenes of the built-in world and their pictures, many at a time, on several processes.

Nothing here imports torch: a process that draws starts in a moment.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from unclip.data.world.scene import Scene, WorldConfig
from unclip.data.world.world import World

_CHUNK: Final = 64  # scenes that a process draws at a time


class Painted(NamedTuple):
    """Scenes, and their pictures (N, S, S, 3) uint8."""

    scenes: list[Scene]
    pixels: NDArray[np.uint8]


class Painters:
    """Processes that draw; with one, this process does. To be closed, or used in `with`."""

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def paint(
        self, config: WorldConfig, numbers: Sequence[int], size: int, again: int = 0
    ) -> Painted:
        """Scenes by their numbers, drawn at `size` pixels; `again` is that of `World.scene`."""
        chunks = [list(numbers[i : i + _CHUNK]) for i in range(0, len(numbers), _CHUNK)]
        jobs = [(config, chunk, size, again) for chunk in chunks]
        if self._processes > 1 and len(jobs) > 1:
            self._pool = self._pool or ProcessPoolExecutor(self._processes, get_context("spawn"))
            parts = list(self._pool.map(_paint, jobs))
        else:
            parts = [_paint(job) for job in jobs]
        scenes = [scene for part in parts for scene in part.scenes]
        return Painted(scenes, np.concatenate([part.pixels for part in parts]))

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _paint(job: tuple[WorldConfig, list[int], int, int]) -> Painted:
    config, numbers, size, again = job
    world = World(config)
    scenes = [world.scene(i, again) for i in numbers]
    return Painted(scenes, np.stack([world.render(scene, size) for scene in scenes]))
