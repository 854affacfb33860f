"""Which images a folder holds, which captions belong to them, and what is wrong with either.

Three layouts are read, alone or mixed, at any depth: a `.txt` of the same name beside each image,
`metadata.jsonl` / `captions.jsonl`, and `captions.csv` / `metadata.csv`.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from unclip.checks import many, printable, shown
from unclip.data.tables import decoded, read_table
from unclip.data.transforms import image_size
from unclip.data.walk import LINKED, Found, walk
from unclip.files import open_regular

FORMATS = (
    "a .txt beside each image, a metadata.jsonl (keys file_name and text), "
    "or a captions.csv (columns file and caption)"
)
ENDLESS = 2**40
"""Length of sources that never repeat: more images than any training reads."""

_MAX_TEXT = 2**20  # bytes; a longer .txt is a book, not a caption
_CONTROL = dict.fromkeys([*range(32), *range(127, 160)], " ")
_NAMED = 160  # characters of a name that a report shows

UNREADABLE = "images that cannot be read"
MISSING = "images without a caption"
CLASSES = (
    "images without a caption in folders that may be classes: --data.template 'a photo of a {}' "
    "makes captions of the folders' names"
)
EMPTY = "images whose caption is empty"
NOT_TEXT = "images whose caption is not UTF-8 text"
LONG_TEXT = "images whose caption file is larger than 1 MiB"
CLOSED_TEXT = "images whose caption cannot be read"
SMALL = "images under half the wanted size"
ENLARGED = "images below the wanted size, enlarged"
ELONGATED = "images longer than 4:1, of which a square shows little"
ORPHANS = "captions without an image"
REPEATED = "captions given twice for one image, counted once"
SEVERAL_LINES = "captions over several lines of a table; is a quote not closed?"


@dataclass
class Report:
    """What a source holds: `str(report)` is readable, `problems` complete.

    problems: kind -> the files concerned, for images and whatever else is skipped and captions that
    are not used. notes: the same for what is used in spite of something. held_out: usable images
    that are not trained on. advice: what to type instead, if the size is too large for the images.
    """

    source: str
    images: int = 0
    usable: int = 0
    captions: int = 0
    held_out: int = 0
    advice: str = ""
    problems: dict[str, Sequence[str]] = field(default_factory=dict)
    notes: dict[str, Sequence[str]] = field(default_factory=dict)
    parts: "Sequence[Report]" = ()

    def problem(self, kind: str, name: str) -> None:
        _append(self.problems, kind, name)

    def note(self, kind: str, name: str) -> None:
        _append(self.notes, kind, name)

    def __str__(self) -> str:
        if self.parts:
            return "\n".join([f"{printable(self.source)}:", *map(str, self.parts)])
        if self.images >= ENDLESS:
            return f"{self.source}: scenes without end, each with its caption"
        lines = [
            f"{printable(self.source)}: {self.usable:,} of {many(self.images, 'images')} usable, "
            f"{many(self.captions, 'captions')}"
        ]
        lines += [f"  skipped: {line}" for line in counted(self.problems)]
        lines += [f"  used: {line}" for line in counted(self.notes)]
        if self.advice:
            lines.append(f"  {self.advice}")
        if self.held_out:
            part = f"{self.held_out:,} of {self.usable:,} images"
            lines.append(f"  held out: {part}, which training does not see")
        return "\n".join(lines)


def _append(kinds: dict[str, Sequence[str]], kind: str, name: str) -> None:
    names = kinds.setdefault(kind, [])
    assert isinstance(names, list), type(names)
    names.append(name)


def counted(kinds: Mapping[str, Sequence[str]]) -> list[str]:
    """For each kind how many there are, and the first three by name."""
    first = {kind: ", ".join(map(_brief, names[:3])) for kind, names in kinds.items()}
    return [
        f"{many(len(names), kind)} ({first[kind]}{', ...' * (len(names) > 3)})"
        for kind, names in kinds.items()
    ]


def _brief(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _NAMED else f"{name[: _NAMED // 2]}…{name[-_NAMED // 2 :]}"


@dataclass(frozen=True)
class Captioned:
    """An image's path within the folder, with "/" on every system, and its captions."""

    name: str
    captions: tuple[str, ...]
    shorter: int  # side, pixels
    longer: int


def find(root: Path, template: str = "", threads: int = 8) -> tuple[list[Captioned], Report]:
    """All images under `root` with a caption, in the order of their names, and the report on the
    rest.

    Reads headers and caption files, no pixels. An image is skipped when its header cannot be read,
    or it has no caption.

    Args:
        template: of captions of images that have none, with "{}" for the name of their folder.

    Raises:
        ValueError: a table that is not as described, names an image that another table names, or
            a path outside the folder.
    """
    found = walk(root)
    report = Report(str(root), images=len(found.images))
    rows = _read_tables(root, found.tables, report)
    stems = {os.path.splitext(name)[0] for name in found.images}
    for name in sorted(rows.keys() - set(found.images)):
        report.problem(ORPHANS, name)
    for stem in sorted(found.texts.keys() - stems):
        report.problem(ORPHANS, found.texts[stem][0])
    if found.linked:
        report.notes[LINKED] = found.linked

    def examine(name: str) -> "Captioned | _Problem":
        captions = rows.get(name) or []
        if template and not captions and not found.texts.get(os.path.splitext(name)[0]):
            captions = _of_class(name, template)
        return _examine(root, name, captions, found)

    usable: list[Captioned] = []
    with ThreadPoolExecutor(threads) as pool:
        for one in pool.map(examine, found.images):
            if isinstance(one, _Problem):
                report.problem(one.kind, one.name)
            else:
                usable.append(one)
    if MISSING in report.problems and _are_classes(found):
        report.problems[CLASSES] = report.problems.pop(MISSING)
    report.problems |= found.unread
    return usable, report


@dataclass(frozen=True)
class _Problem:
    kind: str
    name: str


def _of_class(name: str, template: str) -> list[str]:
    """The caption of an image whose folder says what it shows; none at the top."""
    folder = os.path.dirname(name).rpartition("/")[2]
    return [of_class(template, folder)] if folder else []


def of_class(template: str, name: str) -> str:
    """The caption of a class; a name's underscores are spaces."""
    return template.replace("{}", " ".join(name.replace("_", " ").split()))


def _are_classes(found: Found) -> bool:
    """Whether images lie in several folders, as classes do, and there is no caption at all."""
    folders = {os.path.dirname(name) for name in found.images}
    return len(folders - {""}) > 1 and not found.texts and not found.tables


def _examine(root: Path, name: str, rows: Sequence[str], found: Found) -> Captioned | _Problem:
    """One image's captions and size, or why it is skipped."""
    texts = found.texts.get(os.path.splitext(name)[0], [])
    if not texts and not rows:
        return _Problem(MISSING, name)
    lines = list(rows)
    for text in texts:
        try:
            raw = _read_caption(os.path.join(root, text))
        except (OSError, ValueError):
            return _Problem(CLOSED_TEXT, name)
        if len(raw) > _MAX_TEXT:
            return _Problem(LONG_TEXT, name)
        try:
            lines += decoded(raw).splitlines()
        except UnicodeDecodeError:
            return _Problem(NOT_TEXT, name)
    captions = tuple(dict.fromkeys(filter(None, map(clean, lines))))
    if not captions:
        return _Problem(EMPTY, name)
    try:
        shorter, longer = sorted(image_size(os.path.join(root, name), name=name))
    except ValueError as error:
        return _Problem(UNREADABLE, str(error))
    return Captioned(name, captions, shorter, longer)


def clean(caption: str) -> str:
    """One line of text: white space and control characters become single spaces."""
    text = caption.encode("utf-8", "replace").decode("utf-8")  # JSON can hold half characters
    return " ".join(text.translate(_CONTROL).split())


def _read_caption(path: str) -> bytes:
    """A caption file's content, of one that is too long a byte more than is read.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    with open_regular(path) as file:
        return file.read(_MAX_TEXT + 1)


def _read_tables(root: Path, tables: list[str], report: Report) -> dict[str, list[str]]:
    """Image name -> its captions, over all tables; an empty caption stays, as ""."""
    captions: dict[str, dict[str, None]] = {}  # a dict, since an image may have very many
    origin: dict[str, str] = {}
    for table in tables:
        for name, row in read_table(root, table):
            if origin.setdefault(name, table) != table:
                raise ValueError(
                    f"{printable(origin[name])} and {printable(table)} both name {shown(name)}; "
                    "keep one of them"
                )
            if row.lines > 1:
                report.note(SEVERAL_LINES, f"{table}, line {row.line}")
            known = captions.setdefault(name, {})
            for text in map(clean, row.captions):
                if text and text in known:
                    report.note(REPEATED, name)
                known[text] = None
    return {name: list(texts) for name, texts in captions.items()}
