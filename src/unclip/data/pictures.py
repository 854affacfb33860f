"""From captioned images by number to samples: what every format of pictures does alike.

A format finds its images and says how many there are, their sizes, captions and names (`Pictures`).
`PictureSource` decides which of them are used, crops and scales, draws captions, and holds out.
"""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from os import PathLike
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from unclip.checks import shown
from unclip.data.captions import ELONGATED, ENLARGED, SMALL, UNREADABLE, Report, counted
from unclip.data.columns import Named
from unclip.data.registry import Request
from unclip.data.sources import Sample
from unclip.data.transforms import open_image, square, to_bytes
from unclip.randomness import Draws

_TRIES = 16


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


class PictureSource:
    """Pictures as a source.

    Those whose shorter side is below half of `size` are passed over, since enlarging them would
    teach blur; those between that and `size` are enlarged and counted. One that turns out
    undecodable later is replaced by another, chosen by seed and index, and named in the sample.

    Args:
        pictures: what there is.
        report: on what the format could not use; what is found here is added.
        request: size, seed, split, fraction and crop, see `registry.Request`.

    Raises:
        ValueError: none can be used, or none is in the split.
    """

    endless = False

    def __init__(self, pictures: Pictures, report: Report, request: Request) -> None:
        if not 1 <= request.size <= 4096:
            raise ValueError(f"the image size must be 1 to 4096 pixels, not {request.size}")
        if not 0.0 <= request.held_out < 1.0 or (
            request.split == "held-out" and request.held_out == 0.0
        ):
            raise ValueError(
                f"held_out is {shown(request.held_out)}; give the fraction of images to hold out, "
                "such as 0.05"
            )
        self.pictures, self.report = pictures, report
        self.size, self.seed, self.split = request.size, request.seed or 0, request.split
        self.crop: Literal["centre", "random"] = "random" if self.split == "train" else "centre"
        self._rule = f"{request.split} {request.held_out}"
        usable = self._usable()
        out = pictures.places()[usable] < request.held_out * 2**32
        if out.all():
            out = np.zeros_like(out)
        report.held_out = int(out.sum())
        self._unseen = usable[out] if request.split == "train" else usable[:0]
        self.numbers = usable if self.split == "all" else usable[out == (self.split == "held-out")]
        if not len(self.numbers):
            raise ValueError(
                f"the split {self.split!r} of {pictures.where} is empty: of {report.usable:,} "
                "images none is held out, by their names; change the fraction"
            )

    def _usable(self) -> npt.NDArray[np.int64]:
        """Numbers of the pictures that are large enough; the report gets the rest."""
        sides = self.pictures.sides()
        shorter, longer = sides[:, 0], sides[:, 1]
        large = shorter >= (self.size + 1) // 2
        report, name = self.report, self.pictures.name
        for kinds, kind, which in (
            (report.problems, SMALL, ~large),
            (report.notes, ENLARGED, large & (shorter < self.size)),
            (report.notes, ELONGATED, large & (longer > 4 * shorter)),
        ):
            if which.any():
                kinds[kind] = Named(name, np.flatnonzero(which))
        usable = np.flatnonzero(large)
        report.usable = len(usable)
        report.captions = int(self.pictures.counts()[usable].sum())
        if not len(usable):
            what = "usable image with a caption" if report.images else "images"
            there = "; ".join(counted(report.problems)[:3])
            raise ValueError(
                f"{self.pictures.where} holds no {what}{f', but {there}' if there else ''}"
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
        if index < 0:
            raise IndexError(index)
        draw = Draws(self.seed, index)
        passed_over: list[str] = []
        place = index % len(self)
        for _ in range(_TRIES):
            number = int(self.numbers[place])
            try:
                image = self._open(number)
            except ValueError as error:
                passed_over.append(str(error))
                place = draw.below(len(self))
                continue
            generator = torch.Generator().manual_seed(draw.state)
            image = square(image, self.size, self.crop, generator)
            caption = draw.pick(self.pictures.captions(number))
            sample: Sample = {"image": to_bytes(image), "caption": caption}
            if passed_over:
                sample["unreadable"] = passed_over
            return sample
        raise ValueError(
            f"{_TRIES} images in a row cannot be decoded, the last because {passed_over[-1]}; "
            f"is {self.pictures.where} still there?"
        )

    def caption(self, index: int) -> str:
        """The caption of a sample whose image can be read, without reading it."""
        number = int(self.numbers[index % len(self)])
        return Draws(self.seed, index).pick(self.pictures.captions(number))

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
        text = f"{self.size} {self.seed} {self.crop} {self._rule} {self.pictures.digest()}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
