"""What is known of many captioned images, in arrays rather than objects: ten million take little
memory, and none of a process's own where they are mapped from a file.

Shapes: n images, m captions.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from unclip.data.held_out import place_of

_ENCODING = ("utf-8", "surrogateescape")  # names of files need not be UTF-8


class Made(Sequence[str]):
    """Texts of which each is made when it is asked for, by `at`, from number 0 to the last."""

    @abstractmethod
    def at(self, number: int) -> str: ...

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        asked = range(len(self))[number]  # raises IndexError beyond the last
        return self.at(asked) if isinstance(asked, int) else [self.at(one) for one in asked]

    def __iter__(self) -> Iterator[str]:
        return (self.at(one) for one in range(len(self)))


class Texts(Made):
    """Many texts as one array of bytes (B,) uint8 and where each ends (n,) int64."""

    def __init__(self, raw: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        self.raw, self.ends = raw, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        encoded = [text.encode(*_ENCODING) for text in texts]
        raw = np.frombuffer(bytearray(b"".join(encoded)), np.uint8)
        return cls(raw, np.cumsum([len(one) for one in encoded], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def at(self, number: int) -> str:
        start = self.ends[number - 1] if number else 0
        return self.raw[start : self.ends[number]].tobytes().decode(*_ENCODING)


@dataclass(frozen=True)
class Columns:
    """n captioned images.

    Args:
        names: of the images, with "/"; a split follows from them.
        texts: all m captions, those of one image after those of another.
        last: (n,) int64, the number of the caption after an image's last.
        sides: (n, 2) int32, shorter and longer side in pixels.
        places: (n,) uint32, see `held_out.place_of`.
        offsets, lengths: (n,) int64, where the image's bytes are within their file.
    """

    names: Texts
    texts: Texts
    last: npt.NDArray[np.int64]
    sides: npt.NDArray[np.int32]
    places: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.last)

    def counts(self) -> npt.NDArray[np.int64]:
        """(n,): how many captions each image has."""
        return np.diff(self.last, prepend=0)

    def captions(self, number: int) -> list[str]:
        """Those of one image."""
        first = int(self.last[number - 1]) if number else 0
        return [self.texts[one] for one in range(first, int(self.last[number]))]

    def digest(self) -> str:
        """Changes with names, captions, sizes and where the bytes are."""
        digest = hashlib.blake2b(digest_size=16)
        for array in self.arrays().values():
            digest.update(np.int64(array.size).tobytes() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All of it, by the names that `of_arrays` takes."""
        return {
            "names": self.names.raw,
            "name_ends": self.names.ends,
            "texts": self.texts.raw,
            "text_ends": self.texts.ends,
            "last": self.last,
            "sides": self.sides,
            "places": self.places,
            "offsets": self.offsets,
            "lengths": self.lengths,
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "Columns":
        """Back from `arrays`.

        Raises:
            ValueError: something is missing, of another type, or does not fit together.
        """
        try:
            kept = {name: _typed(arrays[name], kind) for name, kind in _TYPES.items()}
        except KeyError as error:
            raise ValueError(f"{error} is missing") from None
        count = len(kept["last"])
        texts = Texts(kept.pop("texts"), kept.pop("text_ends"))
        names = Texts(kept.pop("names"), kept.pop("name_ends"))
        columns = cls(names, texts, **kept)
        fits = (
            len(names) == len(columns.places) == count
            and columns.sides.shape == (count, 2)
            and len(columns.offsets) == len(columns.lengths)
            and _ends(names.ends, len(names.raw))
            and _ends(texts.ends, len(texts.raw))
            and _ends(columns.last, len(texts))
        )
        if not fits:
            raise ValueError("its columns do not fit together")
        return columns


_TYPES: dict[str, type[np.generic]] = {
    "names": np.uint8,
    "name_ends": np.int64,
    "texts": np.uint8,
    "text_ends": np.int64,
    "last": np.int64,
    "sides": np.int32,
    "places": np.uint32,
    "offsets": np.int64,
    "lengths": np.int64,
}


def _typed(array: npt.NDArray[Any], kind: type[np.generic]) -> npt.NDArray[Any]:
    if array.dtype != kind:
        raise ValueError(f"it holds {array.dtype} instead of {np.dtype(kind)}")
    return array


def _ends(ends: npt.NDArray[np.int64], total: int) -> bool:
    """Whether they cut `total` things into consecutive parts."""
    if not len(ends):
        return total == 0
    return bool(ends[0] >= 0 and ends[-1] == total and (np.diff(ends) >= 0).all())


@dataclass
class Builder:
    """Columns that grow by one image at a time."""

    names: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    sides: list[tuple[int, int]] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)

    def add(
        self, name: str, captions: Sequence[str], size: tuple[int, int], span: tuple[int, int]
    ) -> None:
        """One image: its size in pixels, and the offset and length of its bytes."""
        self.names.append(name)
        self.texts.extend(captions)
        self.last.append(len(self.texts))
        self.sides.append((min(size), max(size)))
        self.spans.append(span)

    def columns(self) -> Columns:
        spans = np.array(self.spans, np.int64).reshape(-1, 2)
        return Columns(
            Texts.of(self.names),
            Texts.of(self.texts),
            np.array(self.last, np.int64),
            np.array(self.sides, np.int32).reshape(-1, 2),
            np.array([place_of(name) for name in self.names], np.uint32),
            np.ascontiguousarray(spans[:, 0]),
            np.ascontiguousarray(spans[:, 1]),
        )


class Named(Made):
    """Names of some of many images, made when they are asked for."""

    def __init__(self, name_of: Callable[[int], str], numbers: npt.NDArray[np.int64]) -> None:
        self._name_of, self._numbers = name_of, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def at(self, number: int) -> str:
        return self._name_of(int(self._numbers[number]))
