"""From captioned images by number to samples: what every format of pictures does alike.

A format finds its images and says how many there are, their sizes, captions and names (`Pictures`).
`PictureSource` decides which of them are used, crops and scales, draws captions, and holds out.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from unclip.checks import many, printable, shown
from unclip.data.captions import ELONGATED, ENLARGED, SMALL, UNREADABLE, Report, counted
from unclip.data.columns import Columns, Named
from unclip.data.registry import Request
from unclip.data.sources import Sample
from unclip.data.transforms import open_image, square, to_bytes
from unclip.randomness import Draws

T = TypeVar("T")
_TRIES = 16
_HALVED = 8  # networks halve the size a few times
_LISTED = 10_000  # names that a report makes at once


def check(size: int, split: str, held_out: float) -> None:
    """Refuse, before anything is read, what no pictures can give.

    Raises:
        ValueError: the size or the fraction is out of range.
    """
    if not 1 <= size <= 4096:
        raise ValueError(f"the image size must be 1 to 4096 pixels, not {size}")
    if not 0.0 <= held_out < 1.0 or (split == "held-out" and held_out == 0.0):
        raise ValueError(
            f"held_out is {shown(held_out)}; give the fraction of images to hold out, such as 0.05"
        )


def asked(request: Request) -> dict[str, Any]:
    """What is asked of pictures of any kind, as arguments of `PictureSource`.

    Raises:
        ValueError: see `check`.
    """
    check(request.size, request.split, request.held_out)
    return {
        "seed": request.seed or 0,
        "split": request.split,
        "held_out": request.held_out,
        "crop": request.crop if request.split == "train" else "centre",
    }


def size_advice(shorter: npt.NDArray[np.int32], size: int) -> str:
    """What to type where most images are smaller than `size`; "" where they are not.

    Args:
        shorter: sides of all images with a caption, pixels.
    """
    if not len(shorter):
        return ""
    common = int(np.partition(shorter, len(shorter) // 2)[len(shorter) // 2])
    if common >= size:
        return ""
    what = "are" if shorter.min() == shorter.max() else "are mostly"
    if common < _HALVED:
        return f"your images {what} {common} px: too small, give larger ones"
    fits = common - common % _HALVED
    return f"your images {what} {common} px: --data.size {fits} or smaller"


class Pictures(Protocol):
    """Captioned images by number, as a format finds them. Every one has a caption, and a header
    that can be read."""

    where: str
    """What a sentence calls all of it."""

    def __len__(self) -> int: ...

    def sides(self) -> npt.NDArray[np.int32]:
        """(n, 2): the shorter and the longer side of each, pixels."""
        ...

    def places(self) -> npt.NDArray[np.uint32]:
        """(n,): where each stands among all, by its name (`held_out.place_of`)."""
        ...

    def counts(self) -> npt.NDArray[np.int64]:
        """(n,): how many captions each has."""
        ...

    def name(self, number: int) -> str:
        """What reports and sentences call it."""
        ...

    def captions(self, number: int) -> Sequence[str]:
        """Its captions, at least one."""
        ...

    def image(self, number: int) -> str | PathLike[str] | bytes:
        """Its file, by name or as bytes; ValueError if it cannot be read."""
        ...

    def digest(self) -> str:
        """Changes with what is found: names, captions, sizes."""
        ...


class Listed:
    """What columns say of pictures, as `Pictures`, but for the images.

    Args:
        where: what a sentence calls all of it.
        columns: names, captions and sizes.
    """

    def __init__(self, where: str, columns: Columns) -> None:
        self.where, self.columns = printable(where), columns

    def __len__(self) -> int:
        return len(self.columns)

    def sides(self) -> npt.NDArray[np.int32]:
        return self.columns.sides

    def places(self) -> npt.NDArray[np.uint32]:
        return self.columns.places

    def counts(self) -> npt.NDArray[np.int64]:
        return self.columns.counts()

    def name(self, number: int) -> str:
        return self.columns.names[number]

    def captions(self, number: int) -> list[str]:
        return self.columns.captions(number)

    def digest(self) -> str:
        return self.columns.digest()


class Files(Listed):
    """Captioned files below a folder.

    Args:
        root: the folder, within which the columns' names are.
    """

    def __init__(self, where: str, root: Path, columns: Columns) -> None:
        super().__init__(where, columns)
        self.root = root

    def image(self, number: int) -> Path:
        return self.root / self.columns.names[number]


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """What a sample is of.

    Args:
        number: of the picture.
        read: what was read of it.
        draw: what else of the sample is drawn with.
        passed_over: why others were not taken.
    """

    number: int
    read: T
    draw: Draws
    passed_over: list[str]

    def caption(self, captions: int) -> int:
        """Which of so many captions the sample has. It is drawn now, once, after the crop."""
        return self.draw.below(captions)


class PictureSource:
    """Pictures as a source.

    Those whose shorter side is below `min_side` (half of `size` by default) are skipped, since
    enlarging them would teach blur; those between that and `size` are enlarged and counted. One
    that turns out undecodable later is replaced by another, chosen by seed and index, and named in
    the sample.

    Args:
        pictures: what there is.
        report: on what the format could not use; what is found here is added.
        size: side of the square images, pixels.
        seed: of crops, choice of captions and replacements.
        crop: "random" along the longer side, anew in each epoch, or "centre".
        split: "train", "held-out" or "all". An image's split follows from its name, so that it
            stays when images are added.
        held_out: fraction of the images that are held out; none are where all would be.
        min_side: shorter sides below this many pixels are skipped.
        expected: what a sentence says should be there, where nothing is.

    Raises:
        ValueError: none can be used, or none is in the split.
    """

    endless = False

    def __init__(
        self,
        pictures: Pictures,
        report: Report,
        size: int,
        *,
        seed: int = 0,
        crop: Literal["centre", "random"] = "random",
        split: str = "all",
        held_out: float = 0.0,
        min_side: int | None = None,
        expected: str = "",
    ) -> None:
        self.pictures, self.report = pictures, report
        self.size, self.seed, self.split, self.held_out = size, seed, split, held_out
        self.crop: Literal["centre", "random"] = crop
        self.min_side = (size + 1) // 2 if min_side is None else min_side
        usable = self._usable(expected)
        out = pictures.places()[usable] < held_out * 2**32
        if out.all():
            out = np.zeros_like(out)
        report.held_out = int(out.sum())
        self._unseen = usable[out] if split == "train" else usable[:0]
        self.numbers = usable if split == "all" else usable[out == (split == "held-out")]
        if not len(self.numbers):
            raise ValueError(
                f"the split {split!r} of {pictures.where} is empty: none of "
                f"{many(report.usable, 'images')} is held out, by their names; change the fraction"
            )

    @classmethod
    def of(
        cls, request: Request, pictures: Pictures, report: Report, expected: str
    ) -> "PictureSource":
        """As it is asked for, see `registry.open_source`."""
        return cls(pictures, report, request.size, expected=expected, **asked(request))

    def _usable(self, expected: str) -> npt.NDArray[np.int64]:
        """Numbers of the pictures that are large enough; the report gets the rest."""
        sides = self.pictures.sides()
        shorter, longer = sides[:, 0], sides[:, 1]
        large = shorter >= self.min_side
        report = self.report
        for kinds, kind, which in (
            (report.problems, SMALL, ~large),
            (report.notes, ENLARGED, large & (shorter < self.size)),
            (report.notes, ELONGATED, large & (longer > 4 * shorter)),
        ):
            if which.any():
                names = Named(self.pictures.name, np.flatnonzero(which))
                kinds[kind] = names if len(names) > _LISTED else list(names)
        report.advice = size_advice(shorter, self.size)
        usable = np.flatnonzero(large)
        report.usable = len(usable)
        report.captions = int(self.pictures.counts()[usable].sum())
        if not len(usable):
            what = "usable image with a caption" if report.images else "images"
            there = "; ".join(counted(report.problems)[:3])
            advice = report.advice or (f"expected {expected}" if expected else "")
            raise ValueError(
                f"{self.pictures.where} holds no {what}{f', but {there}' if there else ''}"
                + (f"; {advice}" if advice else "")
            )
        return usable

    def unseen(self) -> "PictureSource | None":
        """See `sources.HoldsOut`; of what is opened for training alone."""
        if not len(self._unseen):
            return None
        other = copy.copy(self)
        other.numbers, other._unseen = self._unseen, self._unseen[:0]
        other.split, other.crop = "held-out", "centre"
        return other

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        found = self.find(index, self._open)
        generator = torch.Generator().manual_seed(found.draw.state)
        image = square(found.read, self.size, self.crop, generator)
        captions = self.pictures.captions(found.number)
        sample: Sample = {
            "image": to_bytes(image),
            "caption": captions[found.caption(len(captions))],
        }
        if found.passed_over:
            sample["unreadable"] = found.passed_over
        return sample

    def find(self, index: int, read: Callable[[int], T]) -> "Chosen[T]":
        """The picture of a sample: the index's own or, where `read` of its number raises a
        ValueError, another.

        Raises:
            ValueError: none of several can be read.
        """
        if index < 0:
            raise IndexError(index)
        draw = Draws(self.seed, index)
        passed_over: list[str] = []
        place = index % len(self)
        for _ in range(_TRIES):
            number = int(self.numbers[place])
            try:
                return Chosen(number, read(number), draw, passed_over)
            except ValueError as error:
                passed_over.append(str(error))
                place = draw.below(len(self))
        raise ValueError(
            f"{_TRIES} images in a row cannot be decoded, the last because {passed_over[-1]}; "
            f"is {self.pictures.where} still there?"
        )

    def picture(self, number: int) -> Tensor:
        """The central square of a picture, (3, size, size) uint8, by its number among all.

        Raises:
            ValueError: it cannot be decoded.
        """
        return to_bytes(square(self._open(number), self.size, "centre"))

    def caption(self, index: int) -> str:
        """The caption of a sample whose image can be read, without reading it."""
        number = int(self.numbers[index % len(self)])
        return Draws(self.seed, index).pick(self.pictures.captions(number))

    def shorter_sides(self) -> list[int]:
        """Of every image, pixels."""
        sides: list[int] = self.pictures.sides()[self.numbers, 0].tolist()
        return sides

    def captions(self) -> Iterator[str]:
        """Every caption of every image."""
        return (one for number in self.numbers for one in self.pictures.captions(int(number)))

    def check(self, decode: bool = False) -> Report:
        """The report on all that there is; `decode` also decodes every usable image, in threads.

        What only decoding finds is reported, but keeps its index: it is replaced when it is read.
        """
        report = replace(
            self.report, problems=dict(self.report.problems), notes=dict(self.report.notes)
        )
        if decode:
            with ThreadPoolExecutor() as pool:
                errors = list(filter(None, pool.map(self._decode_error, self.numbers)))
            if errors:
                before = report.problems.get(UNREADABLE, [])
                report.problems[UNREADABLE] = [*before, *errors]
                report.usable -= len(errors)
        return report

    def _decode_error(self, number: int) -> str | None:
        try:
            self._open(int(number))
        except ValueError as error:
            return str(error)
        return None

    def _open(self, number: int) -> Image.Image:
        image, name = self.pictures.image(number), self.pictures.name(number)
        return open_image(image, size=self.size, name=name if isinstance(image, bytes) else None)

    def fingerprint(self) -> str:
        """Of the names, captions and settings, not of the pixels."""
        rule = f"{self.split} {self.held_out}"
        text = f"{self.size} {self.seed} {self.crop} {rule} {self.pictures.digest()}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
