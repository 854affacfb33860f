"""Data whose samples have precomputed embeddings, beside their images or in their place.

Which image and which caption a sample has is decided as without them, so that a run learns the same
in the same order.
"""

from collections.abc import Iterator
from fractions import Fraction
from os import PathLike
from typing import cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from unclip.checks import many, printable
from unclip.data.captions import Report
from unclip.data.columns import Columns
from unclip.data.embeddings import Embeddings, Part
from unclip.data.mixture import Mixture
from unclip.data.pictures import Listed, PictureSource
from unclip.data.sources import Sample, Source, Stream


class EmbeddedSource:
    """Pictures of which each sample has, beside its caption, what `Embeddings.row` gives.

    Args:
        source: the pictures.
        embeddings: those of a source that has them.
        part: its number there.
        known: (n,) ascending: the numbers of the pictures that the part's rows are of.
        images: whether the samples have images too; without, no file of theirs is opened.

    Raises:
        ValueError: some of the pictures were not embedded.
    """

    endless = False

    def __init__(
        self,
        source: PictureSource,
        embeddings: Embeddings,
        part: int,
        known: npt.NDArray[np.int64],
        images: bool,
    ) -> None:
        self.source, self.embeddings, self.part, self.images = source, embeddings, part, images
        self.known, self.first = known, embeddings.first(part)
        lacking = ~np.isin(source.numbers, known)
        if lacking.any():
            raise ValueError(
                f"{int(lacking.sum()):,} of {many(len(source.numbers), 'images')} of "
                f"{source.pictures.where} have no embeddings in "
                f"{printable(str(embeddings.folder))}: at {embeddings.plan.size} px they were too "
                f"small; embed with --size {source.size}"
            )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        found = self.source.find(index, self._read)
        captions = self.source.pictures.captions(found.number)
        number = found.caption(len(captions))
        sample = {
            **found.read,
            **self.embeddings.row(self._row(found.number), number),
            "caption": captions[number],
        }
        if found.passed_over:
            sample["unreadable"] = found.passed_over
        return cast(Sample, sample)

    def _read(self, number: int) -> dict[str, Tensor]:
        """The image, if there are to be any; ValueError where it could not be embedded."""
        if not self.embeddings.is_readable(self._row(number)):
            name = printable(self.source.pictures.name(number))
            raise ValueError(f"{name} could not be read when it was to be embedded")
        return {"image": self.source.picture(number)} if self.images else {}

    def _row(self, number: int) -> int:
        return self.first + int(np.searchsorted(self.known, number))

    def caption(self, index: int) -> str:
        """The caption of a sample whose image could be read."""
        return self.source.caption(index)

    def captions(self) -> Iterator[str]:
        return self.source.captions()

    def shorter_sides(self) -> list[int]:
        return self.source.shorter_sides()

    def check(self, decode: bool = False) -> Report:
        return self.source.check(decode and self.images)

    def unseen(self) -> "EmbeddedSource | None":
        """See `sources.HoldsOut`."""
        other = self.source.unseen()
        if other is None:
            return None
        return EmbeddedSource(other, self.embeddings, self.part, self.known, self.images)

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} embedded {self.embeddings.plan.print()}"

    @property
    def oblong(self) -> int:
        """How many of the pictures are no squares."""
        sides = self.source.pictures.sides()[self.source.numbers]
        return int((sides[:, 0] != sides[:, 1]).sum())


class _Stored(Listed):
    """The embedded images of one source, without files."""

    def __init__(self, part: Part, columns: Columns) -> None:
        super().__init__(part.where, columns)
        self.part = part

    def image(self, number: int) -> str | PathLike[str] | bytes:
        raise ValueError(f"{self.name(number)} is there as embeddings alone")

    def digest(self) -> str:
        """The source's own: columns need not say what a file holds."""
        return self.part.digest


def pictures_in(source: Source | Stream, name: str) -> list[PictureSource]:
    """The pictures that data consists of: one source's, or those of a mixture's parts.

    Raises:
        ValueError: it has no images that can be counted.
    """
    if isinstance(source, Mixture):
        return [one for part in source.parts for one in pictures_in(part, name)]
    if isinstance(source, PictureSource):
        return [source]
    raise ValueError(
        f"{printable(name)} has samples without end, or no images that can be counted: embeddings "
        "are of folders, tar shards, saved data sets, COCO and mixtures of them"
    )


def embedded(
    source: Source | Stream, embeddings: Embeddings, name: str, images: bool
) -> EmbeddedSource | Mixture:
    """The source with its embeddings.

    Args:
        name: of the data.
        images: see `EmbeddedSource`.

    Raises:
        ValueError: they are of another source, or it has changed since.
    """
    if isinstance(source, Mixture):
        parts = [embedded(part, embeddings, name, images) for part in source.parts]
        return Mixture(parts, source.weights, source.seed)
    (one,) = pictures_in(source, name)
    digest = one.pictures.digest()
    for number, part in enumerate(embeddings.plan.parts):
        if part.digest == digest:
            return EmbeddedSource(one, embeddings, number, embeddings.numbers[number], images)
    raise ValueError(
        f"{printable(str(embeddings.folder))} holds embeddings of "
        f"{printable(embeddings.plan.source)}, and not of {one.pictures.where} as it is now: that "
        "is other data, or files or captions have changed since; embed it anew"
    )


def alone(embeddings: Embeddings, held_out: float) -> EmbeddedSource | Mixture:
    """The embedded images without their source: captions, names and splits are kept beside the
    embeddings.

    Args:
        held_out: fraction that training does not see.
    """
    parts = [_alone(embeddings, number, held_out) for number in range(len(embeddings.plan.parts))]
    if not embeddings.plan.weights:
        return parts[0]
    return Mixture(parts, [Fraction(weight) for weight in embeddings.plan.weights], 0)


def _alone(embeddings: Embeddings, number: int, held_out: float) -> EmbeddedSource:
    part, columns = embeddings.plan.parts[number], embeddings.columns[number]
    pictures = PictureSource(
        _Stored(part, columns),
        Report(f"embeddings of {part.where}", images=len(columns)),
        embeddings.plan.size,
        split="train",
        held_out=held_out,
        min_side=0,
    )
    return EmbeddedSource(pictures, embeddings, number, np.arange(len(columns)), images=False)
