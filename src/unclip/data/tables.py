"""Tables of captions or ratings: JSON Lines, CSV and Parquet, read a row at a time.

A row names a file and holds its caption or captions, or a number. Tables come from other people's
programs: what is not as described is a sentence with the table's name and the line.
"""

import csv
import io
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from unclip.checks import printable, shown
from unclip.files import open_regular, read_bytes

_FILE_KEYS = ("file_name", "file", "filename", "image", "path")
CAPTION_KEYS = ("text", "caption", "captions")
_MAX_LINE = 2**20  # bytes
_LONGEST_NUMBER = 400  # digits
_MARKS_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks of UTF-16, Windows' "Unicode" text


class Row(NamedTuple):
    """The line that a row begins at, how many lines it takes, the file as it is named, captions."""

    line: int
    lines: int
    file: str
    captions: list[str]


def read_table(root: Path, table: str) -> Iterator[tuple[str, Row]]:
    """(path within `root`, row) of each row of the table, whose own path is within `root` too.

    Raises:
        ValueError: a table that cannot be read, is not as described, or names a file outside.
    """
    where = printable(str(root / table))
    for line, lines, cells in _rows(root / table, where, CAPTION_KEYS):
        place = f"{where}, line {line}"
        row = Row(line, lines, _file(cells, place), captions_of(cells, place))
        yield inside(PurePosixPath(table).parent, row.file, place), row


def read_rows(table: Path, keys: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line, cells by their columns' names in lower case) of each row.

    Args:
        keys: columns that are wanted, in lower case; Parquet reads no others.

    Raises:
        ValueError: as for `read_table`.
    """
    for line, _, cells in _rows(table, printable(str(table)), keys):
        yield line, cells


def read_numbers(root: Path, table: str, keys: Sequence[str]) -> Iterator[tuple[str, float]]:
    """(path within `root`, number) of each row of the table, whose own path is within `root` too.

    Args:
        keys: names that the number's column may have, in lower case; the first that is there.

    Raises:
        ValueError: as for `read_table`; or a row without a finite number.
    """
    where = printable(str(root / table))
    for line, _, cells in _rows(root / table, where, keys):
        place = f"{where}, line {line}"
        value = next((cells[key] for key in keys if cells.get(key) not in (None, "")), None)
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{place} has no number; it needs one of {', '.join(keys)}")
        yield inside(PurePosixPath(table).parent, _file(cells, place), place), number


Cells = Mapping[str, Any]  # of a row, by the columns' names in lower case


def _rows(path: Path, where: str, keys: Sequence[str]) -> Iterator[tuple[int, int, Cells]]:
    """The line that each row begins at, how many lines it takes, and its cells.

    Args:
        keys: columns that are wanted beside the file's; Parquet reads no others.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{where} is no table; give one of {', '.join(_READERS)}")
    yield from read(path, where, keys)


def decoded(raw: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with its mark; `UnicodeDecodeError` if it is neither."""
    return raw.decode("utf-16" if raw.startswith(_MARKS_16) else "utf-8-sig")


def inside(folder: PurePosixPath | str, file: str, where: str) -> str:
    """The file's path within the root, or a ValueError if it lies outside."""
    path = os.path.normpath(PurePosixPath(folder) / file.replace("\\", "/"))
    outside = file.startswith(("/", "\\")) or path.startswith("..") or path[1:2] == ":"
    if outside or "\0" in file or path == ".":
        raise ValueError(f"{where}: {shown(file)} is not a path inside the folder")
    return path


def _read_jsonl(path: Path, where: str, keys: Sequence[str]) -> Iterator[tuple[int, int, Cells]]:
    for number, line in enumerate(_text_lines(path, where), start=1):
        if not line.strip():
            continue
        place = f"{where}, line {number}"
        try:
            row = json.loads(line, parse_int=_whole)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{place} is not a JSON object like {{'file_name': .., 'text': ..}}")
        yield number, 1, lowered(row)


def _whole(digits: str) -> int | float:
    """A JSON number without a fraction, exactly; an infinite one where no use of it is that long
    (Python itself refuses 4,301 digits)."""
    return int(digits) if len(digits) <= _LONGEST_NUMBER else float(digits)


def _read_csv(path: Path, where: str, keys: Sequence[str]) -> Iterator[tuple[int, int, Cells]]:
    """The first line names the columns."""
    lines = _text_lines(path, where)
    header = next(lines, "")
    delimiter = max(",;\t", key=header.count)  # spreadsheets of many countries write ";"
    # Strict, or a quote that is never closed would swallow the rest of the table.
    rows = csv.reader(itertools.chain([header], lines), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    line = 1
    try:
        for cells in rows:
            first, line = line, rows.line_num + 1
            place = f"{where}, line {first}"
            if columns is None:
                columns = _columns(cells, place)
            elif len(cells) > len(columns):
                raise ValueError(f"{place} has more columns than line 1; put captions in quotes")
            elif any(cells):
                yield first, line - first, dict(itertools.zip_longest(columns, cells))
    except csv.Error as error:
        raise ValueError(
            f"{where}, line {line} is not CSV ({printable(str(error))}): close the quotes "
            "that begin a caption, and write those inside one twice"
        ) from None


def _read_parquet(path: Path, where: str, keys: Sequence[str]) -> Iterator[tuple[int, int, Cells]]:
    """Rows are counted from 1, as lines are."""
    parquet = needed("pyarrow.parquet", where)
    try:
        with parquet.ParquetFile(path) as table:
            wanted = {*_FILE_KEYS, *keys}
            names = [name for name in table.schema_arrow.names if name.strip().lower() in wanted]
            rows = (row for part in table.iter_batches(columns=names) for row in part.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield number, 1, lowered(row)
    except (OSError, needed("pyarrow", where).ArrowException) as error:
        said = printable(str(error).split("\n")[0][:200])
        raise ValueError(f"{where} is no whole Parquet file: {said}") from None


def needed(module: str, what: str) -> Any:
    """A module that is not among the necessary ones.

    Raises:
        ValueError: it is not installed; says how it is.
    """
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ValueError(f"{what} is read with {package}: pip install 'unclip[datasets]'") from None


_READERS = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}


def _columns(cells: list[str], where: str) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    for name in filter(None, names):
        if names.count(name) > 1:
            raise ValueError(f"{where} names the column {shown(name)} twice; rename one of them")
    return names


def _text_lines(path: Path, where: str) -> Iterator[str]:
    """Lines of UTF-8, or of UTF-16 with its mark; all end with "\\n"."""
    number = 1
    try:
        with open_regular(path) as file:
            if file.read(2) in _MARKS_16:
                yield from io.StringIO(decoded(read_bytes(path)), newline=None)
                return
            file.seek(0)
            while line := file.readline(_MAX_LINE + 1):
                if len(line) > _MAX_LINE:
                    raise ValueError(f"{where}, line {number} has more than {_MAX_LINE:,} bytes")
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield from io.StringIO(text, newline=None) if "\r" in text else (text,)
                number += 1
    except UnicodeDecodeError as error:
        kind, byte = error.encoding.upper(), error.object[error.start]
        raise ValueError(
            f"{where}, line {number} is not {kind} text (byte 0x{byte:02x}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}") from None


def _file(row: Cells, where: str) -> str:
    file = next((row[key] for key in _FILE_KEYS if row.get(key)), None)
    if not isinstance(file, str):
        raise ValueError(f"{where} names no file; it needs one of {', '.join(_FILE_KEYS)}")
    return file


def lowered(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row with its columns' names in lower case, without space around them."""
    return {str(key).strip().lower(): value for key, value in row.items()}


def captions_of(row: Any, where: str) -> list[str]:
    """What a row, a mapping of names in lower case, says its image shows; [""] if that is nothing.

    Raises:
        ValueError: it is no mapping, has no caption, or one that is no text or list of texts.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is not an object with a caption")
    keys = [key for key in CAPTION_KEYS if key in row]
    if not keys:
        raise ValueError(f"{where} holds no caption; it needs one of {', '.join(CAPTION_KEYS)}")
    texts = row[keys[0]]
    texts = [""] if texts is None or texts == [] else texts
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: {keys[0]} is neither a text nor a list of texts")
    return texts
