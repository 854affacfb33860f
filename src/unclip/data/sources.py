"""What data is to those who use it: samples by number, or samples in order.

A `Source` gives any sample at once; a `Stream` can only be read forward (an archive without an
index, a generator). Both are deterministic: the same number gives the same sample on any machine
and in any process, so that the whole state of a run's data is one integer.
Shapes: C = 3 channels, H = W = size in pixels.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, count, islice, tee
from typing import NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor

from unclip.data.captions import ENDLESS, Report
from unclip.words import Vocabulary, vocabulary


class Sample(TypedDict):
    """image: (3, H, W) uint8. unreadable: why other images were passed over, if any were.

    Further tensors (labels) come through to the batch, stacked, under their own names; those that
    are of another length in each sample are filled up with zeros. Where embeddings stand for images
    (`embedded.py`) there is no image.
    """

    image: Tensor
    caption: str
    unreadable: NotRequired[list[str]]


class Described(Protocol):
    """What data of every kind says of itself."""

    endless: bool
    """Whether no sample comes twice: there are no epochs, and it is read without shuffling."""

    def captions(self) -> Iterator[str]:
        """Every caption that a sample can have; endless data's and a stream's in order, without
        end if it has none."""
        ...

    def check(self, decode: bool = False) -> Report:
        """What it holds and what is wrong with it; `decode` reads every pixel."""
        ...

    def fingerprint(self) -> str:
        """Changes when a number may give another sample than before: compare it on resume."""
        ...


class Source(Described, Protocol):
    """Random access. Indices at and beyond the length are later epochs: the same images, with a
    fresh crop and, where there are several, a fresh choice of caption."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def caption(self, index: int) -> str:
        """The caption of a sample whose image can be read, without reading it."""
        ...


@runtime_checkable
class Stream(Described, Protocol):
    """Samples 0, 1, 2, …, without end, that are read forward only.

    What lies between the positions that are asked for is passed over, best without decoding it. So
    the one integer resumes a run (the first position), and ranks and workers share the work: each
    asks for its own positions, and all of them see the same stream.
    """

    def read(self, positions: Iterator[int]) -> Iterator[Sample]:
        """The samples at ascending positions, of which there is always a next one. A sample follows
        from its position and the stream's seed alone, whatever was read before it."""
        ...


@runtime_checkable
class HoldsOut(Protocol):
    """What data has that keeps some of itself from training."""

    def unseen(self) -> Source | Stream | None:
        """What training on this does not see, as it is to be measured: with crops at the centre,
        without flips. None where that is nothing."""
        ...


def unseen(data: Source | Stream) -> Source | Stream | None:
    """What training on the data does not see, where it holds out anything."""
    return data.unseen() if isinstance(data, HoldsOut) else None


def read(data: Source | Stream, positions: Iterable[int]) -> Iterator[Sample]:
    """The samples at these positions, which a stream needs ascending."""
    if not isinstance(data, Stream):
        return (data[position] for position in positions)
    asked, given = tee(positions)
    samples = data.read(chain(given, count(ENDLESS)))
    return (sample for _, sample in zip(asked, samples, strict=False))


def length(data: Source | Stream) -> int:
    """How many samples there are before they come again; `ENDLESS` of a stream."""
    return ENDLESS if isinstance(data, Stream) else len(data)


def vocabulary_of(data: Source | Stream, captions: Iterable[str]) -> Vocabulary:
    """What these captions of the data speak of; data that knows what they name has `subjects`."""
    return Vocabulary(vocabulary(captions), getattr(data, "subjects", {}))


def first_captions(data: Source | Stream, most: int) -> list[str]:
    """Of the first samples, at most `most`, without reading images."""
    if isinstance(data, Stream):
        return list(islice(data.captions(), most))
    return [data.caption(index) for index in range(min(most, len(data)))]
