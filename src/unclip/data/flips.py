"""Mirrored images, of data of any kind."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, tee

from unclip.data.captions import Report
from unclip.data.sources import Sample, Source, Stream, unseen
from unclip.randomness import Draws

_SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)
_KEY = 0xF1  # keeps this stream apart from those of crops and captions
_READ = 20_000  # captions of data without end that are looked at for the report
NOT_MIRRORED = "captions that say left or right, whose images are not mirrored"


def flipped(source: Source | Stream, seed: int) -> Source | Stream:
    """The same data with every second image mirrored, anew in each epoch: by seed and number.

    An image whose caption says left or right stays as it is, or the caption would lie. Labels that
    the data may have beside image and caption are not changed.
    """
    if isinstance(source, Stream):
        return _FlippedStream(source, seed)
    return _FlippedSource(source, seed)


class _Flipped:
    """What both kinds share."""

    def __init__(self, source: Source | Stream, seed: int) -> None:
        self._data, self.seed, self.endless = source, seed, source.endless

    def mirrored(self, number: int, sample: Sample) -> Sample:
        """The sample of this number, mirrored or not."""
        if Draws(self.seed, number, _KEY).below(2) or _SIDES.search(sample["caption"]):
            return sample
        return {**sample, "image": sample["image"].flip(-1)}

    def captions(self) -> Iterator[str]:
        return self._data.captions()

    def check(self, decode: bool = False) -> Report:
        report = self._data.check(decode)
        kept = [one for one in islice(self.captions(), _READ) if _SIDES.search(one)]
        return replace(report, notes={**report.notes, **({NOT_MIRRORED: kept} if kept else {})})

    def fingerprint(self) -> str:
        return f"{self._data.fingerprint()} flipped {self.seed}"

    def unseen(self) -> Source | Stream | None:
        """See `sources.HoldsOut`."""
        return unseen(self._data)


class _FlippedSource(_Flipped):
    def __init__(self, source: Source, seed: int) -> None:
        super().__init__(source, seed)
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        return self.mirrored(index, self.source[index])

    def caption(self, index: int) -> str:
        return self.source.caption(index)


class _FlippedStream(_Flipped):
    def __init__(self, source: Stream, seed: int) -> None:
        super().__init__(source, seed)
        self.source = source

    def read(self, positions: Iterator[int]) -> Iterator[Sample]:
        asked, given = tee(positions)
        for position, sample in zip(asked, self.source.read(given), strict=False):
            yield self.mirrored(position, sample)
