"""One worker's share of a job: of n workers, worker k makes shards k, k + n, k + 2n and so on."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.checks import Notice, seed_after
from unclip.interfaces.batch.job import (
    Job,
    Sample,
    held,
    is_whole,
    read_shard,
    shard_file,
    write_shard,
)
from unclip.interfaces.batch.prompts import Row

if TYPE_CHECKING:
    from PIL import Image

    from unclip.outputs.provenance import Provenance
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.settings import Settings


@dataclass(frozen=True)
class Worker:
    """Makes the images of shards.

    Args:
        notes: what the notes of all images say.
        batch_size: images computed at once; None is the machine's choice.
        advance: is told how many images are finished.
    """

    pipe: "Pipeline"
    settings: "Settings"
    job: Job
    folder: Path
    provenance: "Provenance"
    notes: Mapping[str, Any]
    batch_size: int | None
    advance: Callable[[int], None]

    def write(self, shard: int, rows: Sequence[Row]) -> bool:
        """Make what a shard lacks of its rows, and put it in its place; False where another process
        is at it, or has done it."""
        with held(self.folder, shard) as mine:
            if mine and not is_whole(self.folder, shard):
                self._fill(shard, rows)
                return True
        self.advance(len(rows) * self.job.count)
        return False

    def _fill(self, shard: int, rows: Sequence[Row]) -> None:
        kept = read_shard(self.folder, shard) if shard_file(self.folder, shard).exists() else []
        there = {(one.row, one.image) for one in kept}
        count = self.job.count
        lacking = [row for row in rows if any((row.number, k) not in there for k in range(count))]
        lost = {row.number for row in lacking}
        samples = [one for one in kept if one.row not in lost]
        self.advance(len(rows) * count - len(lacking) * count)
        failed: list[dict[str, Any]] = []
        for part in _parts(lacking, max(1, self.pipe.batch_size_for(self.batch_size) // count)):
            made, problems = self._made(part)
            samples += made
            failed += problems
            self.advance(len(part) * count)
        write_shard(self.folder, shard, self.job, samples, failed)

    def _made(self, rows: Sequence[Row]) -> tuple[list[Sample], list[dict[str, Any]]]:
        """The images of rows that are computed together; if that fails, one after the other."""
        samples: list[Sample] = []
        failed = [_failure(row, row.problem) for row in rows if row.problem]
        good = [row for row in rows if not row.problem]
        try:
            return samples + (self._samples(good) if good else []), failed
        except (ValueError, RuntimeError, MemoryError) as error:
            if len(good) == 1:
                return samples, [*failed, _failure(good[0], str(error))]
        for row in good:
            made, problems = self._made([row])
            samples += made
            failed += problems
        return samples, failed

    def _samples(self, rows: Sequence[Row]) -> list[Sample]:
        import torch

        count = self.job.count
        seeds = [seed_after(self.job.seed_of(row), k) for row in rows for k in range(count)]
        with warnings.catch_warnings():  # of words that the model does not know, a line each
            warnings.simplefilter("ignore", Notice)
            made = self.pipe(
                [row.prompt for row in rows],
                count,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                settings=self.settings,
                batch_size=self.batch_size,
            )
        numbered = [(row, k) for row in rows for k in range(count)]
        return [
            self._sample(row, k, image, seed)
            for (row, k), image, seed in zip(numbered, made.images, seeds, strict=True)
        ]

    def _sample(self, row: Row, k: int, image: "Image.Image", seed: int) -> Sample:
        from unclip.outputs.images import encoded

        notes = {"prompt": row.prompt, "seed": seed, **self.notes}
        notes |= {"id": row.id} if row.id else {}
        written, said = self.provenance.marked(image)
        notes |= said
        png = self.provenance.signed(encoded(written, notes), "image/png", notes)
        return Sample(row.number, k, png, row.prompt, {"caption": row.prompt, **notes})


def by_shard(
    job: Job, rows: Iterable[Row], shards: Sequence[int]
) -> Iterator[tuple[int, list[Row]]]:
    """Each of the shards, ascending, with its rows; the table is read once, and no more kept."""
    wanted, part = set(shards), list[Row]()
    for row in rows:
        shard = row.number // job.per_shard
        if shard in wanted:
            part.append(row)
            if row.number == job.rows_of(shard)[-1]:
                yield shard, part
                part = []


def _parts(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _failure(row: Row, why: str) -> dict[str, Any]:
    return {"row": row.number, "prompt": row.prompt, "why": why[:500]}
