"""Sizes by name, "tiny" to "paper", for every stage's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from unclip.config import Checked, one_of, to_mapping

BY_SIZE: Any = None
"""The default of a field that the row of `size` holds; a settings object never has it."""


@dataclass(frozen=True)
class Sized(Checked):
    """Settings with a size by name: what is not given itself is as the row of `SIZES` says.

    `size` is "" for what was loaded and is in no row.

    Raises:
        ValueError: there is no such row.
    """

    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]]

    size: str = field(default="small", kw_only=True)  # name of a size, from tiny to paper

    def __post_init__(self) -> None:
        row = _row(type(self), self.size)
        for name in {name for one in self.SIZES.values() for name in one}:
            if getattr(self, name) is BY_SIZE:
                if name not in row:  # as of "", which says nothing of any
                    one_of(self.size, "size", self.SIZES)
                object.__setattr__(self, name, row[name])
        super().__post_init__()

    def given(self) -> dict[str, Any]:
        """`to_mapping` without what only repeats the row: another size can take its place."""
        row = _row(type(self), self.size)
        same = {name for name, value in row.items() if getattr(self, name) == value}
        return {name: value for name, value in to_mapping(self).items() if name not in same}

    @classmethod
    def sized(cls, mapping: Mapping[str, Any], size: str) -> dict[str, Any]:
        """A recipe's table with this size, which decides what sizes decide."""
        decided = cls.decided()
        kept = {key: value for key, value in mapping.items() if key not in decided}
        return {**kept, "size": size}

    def resized(self, other: Self) -> Self:
        """These settings for networks that have the sizes of `other`."""
        return replace(self, **{key: getattr(other, key) for key in self.decided()})

    @classmethod
    def decided(cls) -> set[str]:
        """Fields that say a size, and `size` itself."""
        return {key for row in cls.SIZES.values() for key in row} | {"size"}


def _row(kind: type[Sized], size: str) -> Mapping[str, Any]:
    return kind.SIZES[one_of(size, "size", kind.SIZES)] if size else {}


def size_of(kind: type[Sized], values: Mapping[str, Any]) -> str:
    """The first row that holds these values, of those that rows say anything of; "" if none."""
    for name, row in kind.SIZES.items():
        if all(row[key] == value for key, value in values.items() if key in row):
            return name
    return ""
