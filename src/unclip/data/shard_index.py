"""The index of a tar shard: its captioned images, with where their bytes lie.

A tar can only be read forward. With its index, made once, any sample is a seek, so that which
samples make up a step stays a function of the step alone. The index of `shards/000.tar` is
`shards/.unclip-index/000.tar.safetensors`; where that cannot be written, it is in the user's cache.
"""

import hashlib
import json
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch

from unclip.checks import Notice, printable
from unclip.data.captions import (
    EMPTY,
    MISSING,
    NOT_TEXT,
    ORPHANS,
    UNREADABLE,
    clean,
)
from unclip.data.columns import Builder, Columns
from unclip.data.tables import captions_of, decoded, lowered
from unclip.data.tar import DamageError, Member, Reader, compression
from unclip.data.transforms import SUFFIXES, image_size
from unclip.data.walk import OTHER
from unclip.files import locked, open_regular, opened_safetensors, sweep, write_safetensors

EDITION = "1"  # of what is in an index; another one is made anew
FOLDER = ".unclip-index"

DAMAGED = "shards of which the rest is lost"
UNENDED = "shards without an end mark; are they cut short?"
TWICE = "members whose name the shard has already; the first is read"
APART = "images whose caption lies elsewhere in the shard, where readers in order lose it"
BAD_JSON = "images whose .json gives no caption as text"
NOTHING = "shards without an image that has a caption"

_HEADER = 2**14  # bytes of an image that mostly hold its size
_MOST_IMAGE = 2**29  # bytes
_MOST_TEXT = 2**20


@dataclass(frozen=True)
class Index:
    """What is known of a shard.

    Args:
        columns: its captioned images, `names` as in the archive.
        images: how many there are, without captions too.
        size, changed: of the shard when it was read: bytes, and ns since 1970.
        problems, notes: kind → names, as in `captions.Report`.
    """

    columns: Columns
    images: int
    size: int
    changed: int
    problems: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)


def places(shard: Path) -> tuple[Path, Path]:
    """Where a shard's index may be: beside it, and in the user's cache."""
    whole = os.path.abspath(shard.parent)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = hashlib.blake2b(os.fsencode(whole), digest_size=12).hexdigest()
    name = f"{shard.name}.safetensors"
    return shard.parent / FOLDER / name, cache / "unclip" / "index" / folder / name


def load(shard: Path) -> Index | None:
    """The shard's index, mapped from its file; None where there is none that can be used.

    Raises:
        ValueError: the shard is not there, or was changed since it was indexed.
    """
    size, changed = _state(shard)
    for place in places(shard):
        index = _read(place) if place.is_file() else None
        if index is None:
            continue
        if index.size != size:
            raise ValueError(
                f"{printable(str(shard))} was changed since it was indexed: it had {index.size:,} "
                f"bytes and has {size:,}; put it back, or take it as it is with `unclip data index`"
            )
        if index.changed == changed:
            return index
    return None  # of the same size but newer: a copy, or something else


def made(shard: Path) -> Index:
    """The shard's index, made if need be, by one process while others wait.

    Raises:
        ValueError: see `load` and `build`.
    """
    index = load(shard)
    if index is None:
        with suppress(OSError), locked(shard):
            index = load(shard) or _written(shard)
    return index or load(shard) or _written(shard)


def renew(shard: Path) -> Index:
    """A new index of the shard as it is."""
    return _written(shard)


def forget_gone(folder: Path) -> None:
    """Remove the indices of shards that are no longer in the folder."""
    for gone in missing(folder):
        for place in places(gone):
            place.unlink(missing_ok=True)


def missing(folder: Path) -> list[Path]:
    """Shards of a folder that are indexed but gone."""
    names: set[str] = set()
    for place in places(folder / "x"):
        with suppress(OSError):
            names |= {one.removesuffix(".safetensors") for one in os.listdir(place.parent)
                      if one.endswith(".safetensors") and not one.startswith(".")}  # fmt: skip
    return [folder / name for name in sorted(names) if not (folder / name).exists()]


def _state(shard: Path) -> tuple[int, int]:
    try:
        state = shard.stat()
    except OSError as error:
        raise ValueError(f"the shard {printable(str(shard))} {_why(error)}") from None
    if not stat.S_ISREG(state.st_mode):  # a pipe would keep whoever opens it
        raise ValueError(f"the shard {printable(str(shard))} is no regular file")
    return state.st_size, state.st_mtime_ns


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return f"cannot be read: {error.strerror}"


def _read(place: Path) -> Index | None:
    """An index from its file; None if it is another edition's or damaged."""
    try:
        with opened_safetensors(place) as opened:
            facts = opened.metadata() or {}
            if facts.get("edition") != EDITION:
                return None
            arrays = {key: opened.get_tensor(key).numpy() for key in opened.keys()}  # noqa: SIM118
        columns = Columns.of_arrays(arrays)
        problems, notes = json.loads(facts["problems"]), json.loads(facts["notes"])
        return Index(
            columns,
            int(facts["images"]),
            int(facts["size"]),
            int(facts["changed"]),
            problems,
            notes,
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _written(shard: Path) -> Index:
    """Made now, and kept where it can be."""
    index = build(shard)
    tensors = {key: torch.from_numpy(array) for key, array in index.columns.arrays().items()}
    facts = {
        "edition": EDITION,
        "images": str(index.images),
        "size": str(index.size),
        "changed": str(index.changed),
        "problems": json.dumps(index.problems),
        "notes": json.dumps(index.notes),
    }
    for place in places(shard):
        with suppress(OSError, ValueError):
            place.parent.mkdir(parents=True, exist_ok=True)
            sweep(place.parent)
            write_safetensors(place, tensors, facts)
            return _read(place) or index
    return index


def build(shard: Path) -> Index:
    """Read a shard's headers, captions, and the headers of its images.

    Raises:
        ValueError: it is not there, compressed, empty, or no tar.
    """
    where = printable(str(shard))
    size, changed = _state(shard)
    try:
        with open_regular(shard) as file:
            _check_start(file, size, where)
            found = _Found(file, f"{printable(shard.name)}/")
            found.read(size)
            columns = found.columns()
    except OSError as error:
        raise ValueError(f"the shard {where} {_why(error)}") from None
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


def all_of(shards: Sequence[Path]) -> Iterator[Index]:
    """The indices of several shards, in their order; those that are missing are made, and several
    processes that ask for the same share the work."""
    start = os.getpid() * 7919 % max(1, len(shards))  # each begins elsewhere
    for shard in (*shards[start:], *shards[:start]):
        if load(shard) is None:
            with suppress(OSError, BlockingIOError), locked(shard, wait=False):
                if load(shard) is None:
                    _written(shard)
    return map(made, shards)


def announce(shards: int) -> None:
    """Say that some time is needed, where many shards have no index."""
    warnings.warn(
        Notice(f"{shards:,} shards are indexed, once; `unclip data index` does it on all cores"),
        stacklevel=2,
    )
