"""Tar shards read through once: which captioned images they hold, and what is wrong with them.

As img2dataset and webdataset write them: `cat.jpg` beside `cat.txt` or `cat.json`, in any order.
"""

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from unclip.checks import printable
from unclip.data.captions import EMPTY, MISSING, NOT_TEXT, ORPHANS, UNREADABLE, clean
from unclip.data.columns import Builder, Columns
from unclip.data.shard_index import Index, state, why
from unclip.data.tables import captions_of, decoded, lowered
from unclip.data.tar import DamageError, Member, Reader, compression
from unclip.data.transforms import SUFFIXES, image_size
from unclip.data.walk import OTHER
from unclip.files import open_regular

DAMAGED = "shards of which the rest is lost"
UNENDED = "shards without an end mark; are they cut short?"
TWICE = "members whose name the shard has already; the first is read"
APART = "images whose caption lies elsewhere in the shard, where readers in order lose it"
BAD_JSON = "images whose .json gives no caption as text"
NOTHING = "shards without an image that has a caption"

_HEADER = 2**14  # bytes of an image that mostly hold its size
_MOST_IMAGE = 2**29  # bytes
_MOST_TEXT = 2**20


def build(shard: Path, _: Path | None = None) -> Index:
    """Read a shard's headers, captions, and the headers of its images, which stay where they are.

    Raises:
        ValueError: it is not there, compressed, empty, or no tar.
    """
    where = printable(str(shard))
    size, changed = state(shard)
    try:
        with open_regular(shard) as file:
            _check_start(file, size, where)
            found = _Found(file, f"{printable(shard.name)}/")
            found.read(size)
            columns = found.columns()
    except OSError as error:
        raise ValueError(f"the shard {where} {why(error)}") from None
    if found.nothing:
        raise ValueError(f"{where} is no tar archive: {found.nothing}")
    if not len(columns):
        found.problem(NOTHING, "")
    return Index(columns, len(found.images), size, changed, found.problems, found.notes)


def _check_start(file: BinaryIO, size: int, where: str) -> None:
    if size == 0:
        raise ValueError(f"the shard {where} is empty")
    undo = compression(file.read(8))
    if undo:
        raise ValueError(
            f"the shard {where} is compressed, so that no sample can be reached by a seek; "
            f"unpack it with {undo}"
        )


class _Found:
    """What an open shard holds, sorted by what it is."""

    def __init__(self, file: BinaryIO, prefix: str) -> None:
        self.file, self.prefix = file, prefix
        self.images: dict[str, Member] = {}
        self.texts: dict[str, Member] = {}  # path with its ending in lower case
        self.problems: dict[str, list[str]] = {}
        self.notes: dict[str, list[str]] = {}
        self.nothing = ""  # why there is no tar at all
        self._apart: set[str] = set()

    def problem(self, kind: str, name: str) -> None:
        self.problems.setdefault(kind, []).append(f"{self.prefix}{name}".rstrip("/"))

    def note(self, kind: str, name: str) -> None:
        self.notes.setdefault(kind, []).append(f"{self.prefix}{name}".rstrip("/"))

    def read(self, size: int) -> None:
        """Sort all members in."""
        reader = Reader(self.file, size)
        before, seen = "", set[str]()
        try:
            for member in reader:
                stem = os.path.splitext(member.name)[0]
                if self._sort(member, stem) and stem != before and stem in seen:
                    self._apart.add(stem)
                before = stem
                seen.add(stem)
        except DamageError as damage:
            if not seen:
                self.nothing = str(damage)
            self.problem(DAMAGED, f": {damage}")
        else:
            if not reader.ended:
                self.note(UNENDED, "")

    def _sort(self, member: Member, stem: str) -> bool:
        """Whether it is an image or caption that was not there yet."""
        name, suffix = member.name, os.path.splitext(member.name)[1].lower()
        if name.rpartition("/")[2].startswith(".") or name.startswith("__MACOSX/"):
            return False  # as in folders
        if member.kind or suffix not in (*SUFFIXES, ".txt", ".json"):
            self.problem(member.kind or OTHER, name)
            return False
        kept, key = (self.images, name) if suffix in SUFFIXES else (self.texts, stem + suffix)
        if key in kept:
            self.problem(TWICE, name)
            return False
        kept[key] = member
        return True

    def columns(self) -> Columns:
        """The captioned images whose headers can be read, in the order of the archive."""
        builder, used = Builder(), set[str]()
        for name, member in self.images.items():
            keys = self._caption_keys(name)
            used.update(keys)
            captions = self._captions(name, keys)
            if not captions:
                continue
            try:
                builder.add(name, captions, self._size(member), (member.offset, member.length))
            except ValueError as error:
                self.problem(UNREADABLE, str(error))
                continue
            if os.path.splitext(name)[0] in self._apart:
                self.note(APART, name)
        for key in self.texts.keys() - used:
            self.problem(ORPHANS, key)
        for names in self.problems.values():
            names.sort()
        return builder.columns()

    def _caption_keys(self, name: str) -> list[str]:
        """Captions of the same name; else, as webdataset has it, up to the first dot."""
        folder, slash, base = name.rpartition("/")
        stems = (os.path.splitext(name)[0], folder + slash + base.split(".")[0])
        for stem in stems:
            keys = [stem + suffix for suffix in (".txt", ".json") if stem + suffix in self.texts]
            if keys:
                return keys
        return []

    def _captions(self, name: str, keys: Sequence[str]) -> list[str]:
        """The lines of the .txt, else what the .json says; none, and the reason noted."""
        if not keys:
            self.problem(MISSING, name)
            return []
        member = self.texts[keys[0]]
        try:
            if member.length > _MOST_TEXT:
                raise ValueError
            text = decoded(self._bytes(member, member.length))
        except ValueError:
            self.problem(NOT_TEXT, name)
            return []
        lines: Iterable[str] = text.splitlines()
        if keys[0].endswith(".json"):
            try:
                row = json.loads(text, parse_int=float)
                lines = captions_of(lowered(row) if isinstance(row, dict) else row, keys[0])
            except (ValueError, RecursionError):
                self.problem(BAD_JSON, name)
                return []
        captions = list(dict.fromkeys(filter(None, map(clean, lines))))
        if not captions:
            self.problem(EMPTY, name)
        return captions

    def _size(self, member: Member) -> tuple[int, int]:
        """(width, height), mostly from the first bytes."""
        shown = f"{self.prefix}{member.name}"
        if member.length > _MOST_IMAGE:
            raise ValueError(f"{shown} has more than {_MOST_IMAGE:,} bytes")
        if member.length > _HEADER:
            with suppress(ValueError):
                return image_size(self._bytes(member, _HEADER), name=shown)
        return image_size(self._bytes(member, member.length), name=shown)

    def _bytes(self, member: Member, most: int) -> bytes:
        self.file.seek(member.offset)
        return self.file.read(min(member.length, most))
