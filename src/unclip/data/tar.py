"""Members of a tar archive and where their bytes lie, told by the headers alone.

POSIX ustar and pax, and GNU's long names and large sizes, as in the manual of GNU tar ("Basic Tar
Format") and POSIX.1-2017 (`pax`). Python's `tarfile` reads the same, but ends without a word at a
damaged header; here that is `DamageError`, so that what is lost can be said.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

BLOCK = 512  # bytes
COMPRESSED = {  # how a file begins that is compressed → what undoes it
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\x00": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}
_LONGEST = 2**20  # bytes of a name or of a header's extension
_ZERO = bytes(BLOCK)
_SIGNS = 8 * b" "  # what the checksum's own field counts as


class DamageError(ValueError):
    """The archive cannot be read further; the text says where and why."""


class Member(NamedTuple):
    """A file in the archive: name, offset and length of its bytes; `kind` is "" for a regular file
    (or a hard link to one), else what it is instead."""

    name: str
    offset: int
    length: int
    kind: str = ""


@dataclass
class _Said:
    """What extended headers say of the next member."""

    name: str = ""
    link: str = ""
    size: int | None = None
    sparse: bool = False

    def take(self, records: dict[str, str]) -> None:
        self.name = records.get("path", self.name)
        self.link = records.get("linkpath", self.link)
        if "size" in records:
            self.size = _whole(records["size"])
        self.sparse = self.sparse or any(key.startswith("GNU.sparse.") for key in records)


@dataclass
class Reader:
    """The members of an open archive, in order.

    Args:
        file: open for reading bytes.
        size: of the file, bytes.
    """

    file: BinaryIO
    size: int
    ended: bool = False  # whether an end mark was seen
    _position: int = 0
    _common: dict[str, str] = field(default_factory=dict)
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Member]:
        """What follows an end mark, as in archives that were joined by `cat`, is read too.

        Raises:
            DamageError: where it cannot go on.
        """
        said = _Said()
        while self._position < self.size:
            block = self._read(self._position, BLOCK, "a header")
            if block == _ZERO:
                self.ended = True
                self._position += BLOCK
                continue
            self.ended = False
            _check(block, self._position)
            start = self._position + BLOCK
            kind = block[156:157]
            if kind in (b"L", b"K", b"x", b"g"):
                self._extension(kind, start, _number(block[124:136]), said)
                continue
            member = self._member(block, kind, start, said)
            if member is not None:
                yield member
            said = _Said()
            said.sparse = any(key.startswith("GNU.sparse.") for key in self._common)

    def _extension(self, kind: bytes, start: int, length: int, said: _Said) -> None:
        if not 0 <= length <= _LONGEST:
            raise DamageError(
                f"the header at byte {start - BLOCK:,} has an extension of {length:,} bytes"
            )
        raw = self._read(start, length, "a header's extension")
        if kind == b"L":
            said.name = _text(raw)
        elif kind == b"K":
            said.link = _text(raw)
        else:
            records = _records(raw, start)
            if kind == b"g":
                self._common |= records
            else:
                said.take(records)
        self._position = start + _padded(length)

    def _member(self, block: bytes, kind: bytes, start: int, said: _Said) -> Member | None:
        """What the header describes; None for folders."""
        name = said.name or _name(block)
        length = _number(block[124:136]) if said.size is None else said.size
        if length < 0:
            raise DamageError(f"the header at byte {start - BLOCK:,} gives no size")
        regular = kind in (b"0", b"\0", b"7", b"S")
        stored = length if regular or kind not in b"123456" else 0  # links and devices have none
        self._position = start + _padded(stored)
        if start + stored > self.size:
            raise DamageError(
                f"{name!r} at byte {start:,} should have {length:,} bytes; the file ends"
            )
        if kind == b"5" or (regular and name.endswith("/")):
            return None
        if kind == b"1":
            target = self._seen.get(_plain(said.link or _text(block[157:257])))
            if target is None:
                return Member(name, start, 0, "hard links to nothing")
            start, length = target
        elif kind == b"S" or said.sparse:
            return Member(name, start, length, "sparse files")
        elif not regular:
            return Member(name, start, 0, "links, devices or unknown kinds of files")
        name = _plain(name)
        self._seen.setdefault(name, (start, length))
        return Member(name, start, length)

    def _read(self, start: int, length: int, what: str) -> bytes:
        self.file.seek(start)
        raw = self.file.read(length)
        if len(raw) < length:
            raise DamageError(f"{what} at byte {start:,} is cut short: the file ends")
        return raw


def compression(start: bytes) -> str | None:
    """The program that unpacks a file that begins so, if it is compressed."""
    return next((undo for mark, undo in COMPRESSED.items() if start.startswith(mark)), None)


def _check(block: bytes, position: int) -> None:
    """The checksum counts the header's bytes, with spaces in its own place."""
    counted = block[:148] + _SIGNS + block[156:]
    wanted, total = _number(block[148:156]), sum(counted)
    if wanted == total:
        return
    if wanted != total - 256 * sum(byte > 127 for byte in counted):  # of signed bytes, long ago
        raise DamageError(f"there is no header at byte {position:,}: the archive is damaged there")


def _number(raw: bytes) -> int:
    """Octal digits, or with the first bit set a binary number (GNU)."""
    if raw[0] & 0x80:
        return int.from_bytes(bytes([raw[0] & 0x7F]) + raw[1:], "big")
    digits = raw.strip(b" \0").split(b"\0")[0]
    try:
        return int(digits or b"0", 8)
    except ValueError:
        return -1


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise DamageError(f"a header says that a file has {text[:20]!r} bytes")
    return int(text)


def _name(block: bytes) -> str:
    name, prefix = _text(block[:100]), _text(block[345:500])
    return f"{prefix}/{name}" if block[257:263] == b"ustar\0" and prefix else name


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _plain(name: str) -> str:
    """Without "./" and the like, which programs put before names or not."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _records(raw: bytes, start: int) -> dict[str, str]:
    """pax: "LENGTH KEY=VALUE\\n", again and again; the length counts the whole record."""
    records = {}
    while raw.strip(b"\0"):
        digits, space, _ = raw.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        if not space or not len(digits) + 1 < length <= len(raw):
            raise DamageError(f"the extension at byte {start:,} is not as pax describes it")
        key, _, value = raw[len(digits) + 1 : length - 1].partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        raw = raw[length:]
    return records


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK
