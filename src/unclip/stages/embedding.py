"""CLIP's embeddings of captioned images, computed once and written as shards.

Which images a shard has, and in what batches they are computed, follows from the plan alone: any
number of processes write the same bytes, and one that was killed leaves whole shards behind.

Shapes: n images, m captions and t tokens of a shard, D embedding width.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from unclip.checks import printable
from unclip.data.embeddings import (
    INDEX,
    Plan,
    open_shard,
    shard_file,
    write_part,
    write_shard,
)
from unclip.data.pictures import PictureSource
from unclip.files import shared_folder
from unclip.pixels import to_signed
from unclip.stages.conditioning import FrozenCLIP

T = TypeVar("T")
_AHEAD = 2  # batches that are decoded while one is computed


def claim(folder: Path, plan: Plan, sources: Sequence[PictureSource], measured: bool) -> Plan:
    """Make the folder that of this plan, by the first of several processes, or find that it is.

    Args:
        measured: whether the precision was chosen by a measurement; then that of a folder that was
            begun counts.

    Returns:
        The plan that the folder has.

    Raises:
        ValueError: it holds other embeddings, or something else.
    """
    with shared_folder(folder):
        if (folder / INDEX).exists():
            there = Plan.read(folder)
            if measured:
                hidden = there.precision if plan.hidden else ""
                plan = replace(plan, precision=there.precision, hidden=hidden)
            _check_same(folder, plan, there)
            for number, source in enumerate(sources):
                write_part(
                    folder, number, source
                )  # the same again, in the place of what may be gone
            return plan
        if any(not one.name.startswith((".", "pictures-")) for one in folder.iterdir()):
            raise ValueError(
                f"{printable(str(folder))} has something else in it; give embeddings a folder of "
                "their own"
            )
        for number, source in enumerate(sources):
            write_part(folder, number, source)
        plan.write(folder)  # last: a folder with a plan has all that belongs to it
    return plan


_DIFFERENCES = {
    "parts": "of other data, or of a state of it before files or captions changed",
    "clip": "of another CLIP",
    "size": "of images of another size",
    "hidden": "with or without captions' hidden states, otherwise than asked for now",
    "precision": "computed in another precision",
    "per_shard": "in shards of another size",
}


def _check_same(folder: Path, plan: Plan, there: Plan) -> None:
    if plan.print() == there.print():
        return
    differs = [text for key, text in _DIFFERENCES.items() if _of(plan, key) != _of(there, key)]
    raise ValueError(
        f"{printable(str(folder))} holds embeddings {(differs or ['of something else'])[0]}; give "
        "another folder, or remove that one"
    )


def _of(plan: Plan, key: str) -> object:
    parts = [(part.digest, part.images) for part in plan.parts]
    return parts if key == "parts" else getattr(plan, key)


def missing(
    folder: Path, plan: Plan, shards: Sequence[int], say: Callable[[str], None]
) -> list[int]:
    """Those of the shards that are not there whole, by every byte; damaged ones are told of."""
    found = []
    for shard in shards:
        if shard_file(folder, shard).exists():
            try:
                open_shard(folder, plan, shard, summed=True)
                continue
            except ValueError as error:
                say(str(error).partition(";")[0] + "; it is made again")
        found.append(shard)
    return found


@dataclass(frozen=True)
class Computer:
    """What makes shards.

    Args:
        clip: on its device.
        plan: what is to be made.
        sources: the plan's parts.
        dtype: what the towers compute in, as in training (autocast).
        batch_size: images, and captions, that are computed at once.
        pool: where images are decoded.
    """

    clip: FrozenCLIP
    plan: Plan
    sources: Sequence[PictureSource]
    dtype: torch.dtype
    batch_size: int
    pool: ThreadPoolExecutor

    def write(self, folder: Path, shard: int, progress: Callable[[int], object]) -> list[str]:
        """Compute and write a shard; says what could not be read in it.

        Args:
            progress: is told how many more images are done.
        """
        rows = [self._where(row) for row in self.plan.rows(shard)]
        images, unreadable = self._images(rows, progress)
        texts = [source.pictures.captions(number) for source, number in rows]
        counts = torch.tensor([len(one) for one in texts])
        write_shard(
            folder,
            self.plan,
            shard,
            {
                **images,
                "last": counts.cumsum(0),
                **self._texts([caption for one in texts for caption in one]),
            },
        )
        return unreadable

    def _where(self, row: int) -> tuple[PictureSource, int]:
        """A row's source, and its number there."""
        for source in self.sources:
            if row < len(source.numbers):
                return source, int(source.numbers[row])
            row -= len(source.numbers)
        raise IndexError(row)

    def _images(
        self, rows: Sequence[tuple[PictureSource, int]], progress: Callable[[int], object]
    ) -> tuple[dict[str, Tensor], list[str]]:
        """The "z_i" (n, D) and "readable" (n,): zeros where an image cannot be decoded."""
        parts, readable, unreadable = [], [], []
        for several in self._ahead(rows):
            there = torch.tensor([isinstance(one, Tensor) for one in several])
            z_i = torch.zeros(len(several), self.plan.width)
            if there.any():
                pixels = torch.stack([one for one in several if isinstance(one, Tensor)])
                with self._autocast():
                    made = self.clip.image(to_signed(pixels.to(self.clip.device)))
                z_i[there] = made.cpu()
            parts.append(z_i)
            readable.append(there)
            unreadable += [one for one in several if isinstance(one, str)]
            progress(len(several))
        return {"z_i": torch.cat(parts), "readable": torch.cat(readable).byte()}, unreadable

    def _texts(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """The captions' "z_t" (m, D) and, where they are asked for, the "hidden" (t, D) and "ids"
        (t,) of their own tokens, one caption after the other, and "token_ends" (m,)."""
        z_t, hidden, ids, counts = [], [], [], []
        kept = torch.bfloat16 if self.plan.hidden == "bf16" else torch.float32
        for several in _cut(captions, self.batch_size):
            with self._autocast():
                text = self.clip.text(several)
            z_t.append(text.z_t.cpu())
            if self.plan.hidden:
                hidden.append(text.hidden[text.mask].to(kept).cpu())
                ids.append(text.ids[text.mask].int().cpu())
                counts.append(text.mask.sum(dim=1).cpu())
        made = {"z_t": torch.cat(z_t)}
        if self.plan.hidden:
            ends = torch.cat(counts).cumsum(0)
            made |= {"hidden": torch.cat(hidden), "ids": torch.cat(ids), "token_ends": ends}
        return made

    def _autocast(self) -> torch.autocast:
        enabled = self.dtype != torch.float32
        return torch.autocast(self.clip.device.type, self.dtype, enabled=enabled)

    def _ahead(self, rows: Sequence[tuple[PictureSource, int]]) -> Iterator[list[Tensor | str]]:
        """The rows' images in batches, some of them decoded ahead in threads."""
        waiting: deque[list[Future[Tensor | str]]] = deque()
        for several in _cut(rows, self.batch_size):
            waiting.append([self.pool.submit(_decoded, one) for one in several])
            if len(waiting) > _AHEAD:
                yield [one.result() for one in waiting.popleft()]
        for last in waiting:
            yield [one.result() for one in last]


def _cut(several: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (several[first : first + size] for first in range(0, len(several), size))


def _decoded(row: tuple[PictureSource, int]) -> Tensor | str:
    """The middle of an image (3, H, W) uint8, or why there is none."""
    source, number = row
    try:
        return source.picture(number)
    except ValueError as error:
        return str(error)
