"""Which images a folder holds, which captions belong to them, and what is wrong with either.

Three layouts are read, alone or mixed, at any depth: a `.txt` of the same name beside each image,
`metadata.jsonl` / `captions.jsonl`, and `captions.csv` / `metadata.csv`.
"""

import csv
import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from unclip.data.transforms import SUFFIXES, image_size

FORMATS = (
    "a .txt beside each image, a metadata.jsonl (keys file_name and text), "
    "or a captions.csv (columns file and caption)"
)
ENDLESS = 2**40
"""Length of sources that never repeat: more images than any training reads."""

_TABLES = ("metadata.jsonl", "captions.jsonl", "metadata.csv", "captions.csv")
_FILE_KEYS = ("file_name", "file", "filename", "image", "path")
_CAPTION_KEYS = ("text", "caption", "captions")
_MAX_TEXT = 2**20  # bytes; a longer .txt is a book, not a caption
_CONTROL = dict.fromkeys([*range(32), *range(127, 160)], " ")

UNREADABLE = "unreadable images"
MISSING = "images without a caption"
EMPTY = "images whose caption is empty"
NOT_TEXT = "images whose caption is not UTF-8 text"
SMALL = "images under half the wanted size"
ENLARGED = "images below the wanted size, which are enlarged"
ELONGATED = "images longer than 4:1, of which a square shows little"
ORPHANS = "captions without an image"
REPEATED = "captions given twice for one image, counted once"


@dataclass
class Report:
    """What a source holds: `str(report)` is readable, `problems` complete.

    problems: kind -> the files concerned, for images that are skipped and captions that are not
    used. notes: the same for what is used in spite of something.
    """

    source: str
    images: int = 0
    usable: int = 0
    captions: int = 0
    problems: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def problem(self, kind: str, name: str) -> None:
        self.problems.setdefault(kind, []).append(name)

    def note(self, kind: str, name: str) -> None:
        self.notes.setdefault(kind, []).append(name)

    def __str__(self) -> str:
        if self.images >= ENDLESS:
            return f"{self.source}: scenes without end, each with its caption"
        lines = [
            f"{self.source}: {self.usable:,} of {self.images:,} images usable, "
            f"{self.captions:,} captions"
        ]
        for head, kinds in (("skipped", self.problems), ("used", self.notes)):
            for kind, names in kinds.items():
                shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                lines.append(f"  {head}: {len(names):,} {kind} ({shown})")
        return "\n".join(lines)


@dataclass(frozen=True)
class Captioned:
    """An image's path within the folder, with "/" on every system, and its captions."""

    name: str
    captions: tuple[str, ...]
    shorter: int  # side, pixels
    longer: int


def find(root: Path, size: int, min_side: int, threads: int = 8) -> tuple[list[Captioned], Report]:
    """All usable images under `root` in the order of their names, and the report on the rest.

    Reads headers and caption files, no pixels. An image is skipped when its header cannot be read,
    it has no caption, or its shorter side is below `min_side` pixels; below `size` it is noted.

    ValueError: a table that is not as described, names an image that another table names, or a
    path outside the folder.
    """
    images, texts, tables = _walk(root)
    report = Report(str(root), images=len(images))
    rows = _read_tables(root, tables, report)
    known = set(images)
    stems = {os.path.splitext(name)[0] for name in images}

    for name in sorted(rows.keys() - known):
        report.problem(ORPHANS, name)
    for stem in sorted(texts - stems):
        report.problem(ORPHANS, f"{stem}.txt")

    def examine(name: str) -> "Captioned | _Problem":
        return _examine(root, name, rows.get(name, []), texts, min_side)

    usable: list[Captioned] = []
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(examine, images):
            if isinstance(found, _Problem):
                report.problem(found.kind, found.name)
                continue
            usable.append(found)
            if found.shorter < size:
                report.note(ENLARGED, found.name)
            if found.longer > 4 * found.shorter:
                report.note(ELONGATED, found.name)
    report.usable = len(usable)
    report.captions = sum(len(one.captions) for one in usable)
    return usable, report


@dataclass(frozen=True)
class _Problem:
    kind: str
    name: str


def _examine(
    root: Path, name: str, rows: list[str], texts: set[str], min_side: int
) -> Captioned | _Problem:
    """One image's captions and size, or why it is skipped."""
    stem = os.path.splitext(name)[0]
    lines = list(rows)
    if stem in texts:
        text = _read_text(root / f"{stem}.txt")
        if text is None:
            return _Problem(NOT_TEXT, name)
        lines += text.splitlines()
    elif not rows:
        return _Problem(MISSING, name)
    captions = tuple(dict.fromkeys(filter(None, map(clean, lines))))
    if not captions:
        return _Problem(EMPTY, name)
    try:
        shorter, longer = sorted(image_size(root / name))
    except ValueError as error:
        return _Problem(UNREADABLE, str(error).removeprefix(f"{root}{os.sep}"))
    if shorter < min_side:
        return _Problem(SMALL, name)
    return Captioned(name, captions, shorter, longer)


def clean(caption: str) -> str:
    """One line of text: white space and control characters become single spaces."""
    text = caption.encode("utf-8", "replace").decode("utf-8")  # JSON can hold half characters
    return " ".join(text.translate(_CONTROL).split())


def _read_text(path: Path) -> str | None:
    """A caption file as text, with or without a byte order mark; None if it is not text."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_TEXT + 1)
        if len(raw) > _MAX_TEXT:
            return None
        marked16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))  # Windows' "Unicode" text
        return raw.decode("utf-16" if marked16 else "utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None


def _walk(root: Path) -> tuple[list[str], set[str], list[str]]:
    """(sorted images, names of .txt files without the ending, tables) under `root`, recursively."""
    images: list[str] = []
    texts: set[str] = set()
    tables: list[str] = []
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        prefix = PurePosixPath(Path(folder).relative_to(root).as_posix())
        for file in files:
            stem, suffix = os.path.splitext(file)
            if file.startswith("."):
                continue
            if file in _TABLES:
                tables.append(str(prefix / file))
            elif suffix.lower() in SUFFIXES:
                images.append(str(prefix / file))
            elif suffix == ".txt":
                texts.add(str(prefix / stem))
    return sorted(images), texts, sorted(tables)


def _read_tables(root: Path, tables: list[str], report: Report) -> dict[str, list[str]]:
    """Image name -> its captions, over all tables; an empty caption stays, as ""."""
    captions: dict[str, list[str]] = {}
    origin: dict[str, str] = {}
    for table in tables:
        read = _read_jsonl if table.endswith(".jsonl") else _read_csv
        for line, file, texts in read(root / table):
            name = _inside(PurePosixPath(table).parent, file, f"{root / table}, line {line}")
            if origin.setdefault(name, table) != table:
                raise ValueError(f"{origin[name]} and {table} both name {name}; keep one of them")
            known = captions.setdefault(name, [])
            for text in map(clean, texts):
                if text and text in known:
                    report.note(REPEATED, name)
                else:
                    known.append(text)
    return captions


def _inside(folder: PurePosixPath, file: str, where: str) -> str:
    """The file's path within the root, or a ValueError if it lies outside."""
    path = os.path.normpath(folder / file.replace("\\", "/"))
    outside = file.startswith(("/", "\\")) or path.startswith("..") or path[1:2] == ":"
    if outside or "\0" in file or path == ".":
        raise ValueError(f"{where}: {file!r} is not a path inside the folder")
    return path


def _read_jsonl(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """(line number, file, captions) of each line."""
    for number, line in enumerate(_text_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where} is not a JSON object like {{'file_name': .., 'text': ..}}")
        yield number, *_file_and_captions(row, where)


def _read_csv(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """(line number, file, captions) of each row; the first line names the columns."""
    lines = _text_lines(path)
    header = next(lines, "")
    delimiter = max(",;\t", key=header.count)  # spreadsheets of many countries write ";"
    rows = csv.DictReader(itertools.chain([header], lines), delimiter=delimiter)
    try:
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if None in row:
                raise ValueError(f"{where} has more columns than line 1; put captions in quotes")
            yield rows.line_num, *_file_and_captions(row, where)
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num} is not CSV ({error})") from None


def _text_lines(path: Path) -> Iterator[str]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"{path}, line {number} is not UTF-8 text (byte 0x{byte:02x}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _file_and_captions(row: dict[Any, Any], where: str) -> tuple[str, list[str]]:
    file = next((row[key] for key in _FILE_KEYS if row.get(key)), None)
    if not isinstance(file, str):
        raise ValueError(f"{where} names no file; it needs one of {', '.join(_FILE_KEYS)}")
    keys = [key for key in _CAPTION_KEYS if key in row]
    if not keys:
        raise ValueError(f"{where} holds no caption; it needs one of {', '.join(_CAPTION_KEYS)}")
    texts = row[keys[0]]
    texts = [""] if texts is None or texts == [] else texts
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: {keys[0]} is neither a text nor a list of texts")
    return file, texts
