"""Data in another order, so that its first samples stand for all of it."""

from collections.abc import Iterator

from unclip.data.batches import Order
from unclip.data.captions import Report
from unclip.data.sources import Sample, Source, Stream


def shuffled(source: Source | Stream, seed: int = 0) -> Source | Stream:
    """The same samples in a fixed order that the seed draws; folders are in the order of names.

    Data without end, whose samples are independent draws already, stays as it is, and so does what
    can only be read forward.
    """
    if isinstance(source, Stream) or source.endless:
        return source
    return _Shuffled(source, seed)


class _Shuffled:
    endless = False

    def __init__(self, source: Source, seed: int) -> None:
        self.source, self.order = source, Order.of(source, seed)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        return self.source[self.order(index)]

    def caption(self, index: int) -> str:
        return self.source.caption(self.order(index))

    def captions(self) -> Iterator[str]:
        return self.source.captions()

    def check(self, decode: bool = False) -> Report:
        return self.source.check(decode)

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} shuffled {self.order.seed}"
