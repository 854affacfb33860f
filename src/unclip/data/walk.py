"""What lies in a folder of images, at any depth, told by names alone: no file is opened.

One walk for training and for every command that takes a folder. Nothing that a user could take for
an image is passed over without a word, but for hidden files and the folders that systems make.
"""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from unclip.data.transforms import SUFFIXES

TABLES = (
    *("metadata.jsonl", "captions.jsonl", "metadata.csv", "captions.csv"),
    *("metadata.parquet", "captions.parquet"),
)

FOREIGN = "files in formats of pictures or films that are not read; convert to PNG or JPEG"
ARCHIVES = "archives; shards in .tar are read as wds:FOLDER, others must be unpacked"
OTHER_TABLES = f"tables under other names than {', '.join(TABLES)}"
SHARDS = (
    "files with a data set in one piece; Parquet and Arrow are read as hf:FOLDER, of others write "
    "the images out, with their captions in a metadata.jsonl"
)
JSONS = "files in JSON; COCO's captions are read as coco:FILE.json:FOLDER"
OTHER = "other files"
SPECIAL = "files of other kinds: pipes, devices or sockets"
DEAD = "links to nowhere"
AGAIN = "links to folders that are read under another name"
CLOSED = "folders that cannot be read"
LINKED = "files outside the folder, through links"

_SYSTEM = frozenset(
    ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
)
_PICTURES = (
    ".ai .arw .avi .bpg .cr2 .cr3 .crw .dds .dng .emf .eps .exr .flif .hdr .heic .heics .heif .hif"
    " .icns .ico .indd .jxl .jxr .kra .m4v .mkv .mov .mp4 .mpeg .mpg .nef .nrw .orf .pcx .pdf .pef"
    " .psb .psd .raf .raw .rw2 .sgi .sr2 .srw .svg .svgz .tga .webm .wmf .wmv .x3f .xcf .xpm"
)
_ARCHIVES = ".7z .bz2 .gz .rar .tar .tbz .tgz .txz .xz .zip .zst"
_TABLES = ".csv .jsonl .ndjson .ods .tsv .xls .xlsx"
_SHARDS = ".arrow .feather .h5 .hdf5 .lmdb .mdb .parquet .tfrec .tfrecord"
_UNREAD = {
    suffix: kind
    for kind, endings in (
        (FOREIGN, _PICTURES),
        (ARCHIVES, _ARCHIVES),
        (OTHER_TABLES, _TABLES),
        (SHARDS, _SHARDS),
        (JSONS, ".json"),
    )
    for suffix in endings.split()
}


@dataclass
class Found:
    """Paths within the folder, with "/" on every system.

    Args:
        images: by name; their endings say that they are images, and no more.
        texts: path without the ending → the `.txt` files (also `.TXT`) of that name.
        tables: files named as in `TABLES`, by name.
        unread: kind → what is passed over.
        linked: of those that are read, the ones that lie outside the folder.
    """

    images: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    unread: dict[str, list[str]] = field(default_factory=dict)
    linked: list[str] = field(default_factory=list)

    def add(self, name: str, outside: bool) -> None:
        """Sort one regular file in."""
        stem, suffix = os.path.splitext(name)
        suffix = suffix.lower()
        if name.rpartition("/")[2].lower() in TABLES:
            self.tables.append(name)
        elif suffix in SUFFIXES:
            self.images.append(name)
        elif suffix == ".txt":
            self.texts.setdefault(stem, []).append(name)
        else:
            self.pass_over(_UNREAD.get(suffix, OTHER), name)
            return
        if outside:
            self.linked.append(name)

    def pass_over(self, kind: str, name: str) -> None:
        self.unread.setdefault(kind, []).append(name)


def walk(root: Path) -> Found:
    """Everything below `root`. Links are followed, but no folder is entered twice: real ones come
    before links to them, so that files have the name of the place where they are."""
    found = Found()
    home = os.path.realpath(root)
    pending = deque([""])  # prefixes of names
    entered: set[str] = set()
    while pending:
        prefix = pending.popleft()
        real = os.path.realpath(os.path.join(root, prefix))
        if real in entered:
            found.pass_over(AGAIN, prefix.rstrip("/"))
            continue
        entered.add(real)
        try:
            entries = list(_entries(os.path.join(root, prefix)))
        except OSError:
            found.pass_over(CLOSED, prefix.rstrip("/") or ".")
            continue
        outside = not _within(real, home)
        folders: list[str] = []
        for entry in entries:
            name, kind = prefix + entry.name, _kind(entry)
            if kind == "folder":
                (pending if entry.is_symlink() else folders).append(f"{name}/")
            elif kind != "file":
                found.pass_over(kind, name)
            elif entry.is_symlink():
                found.add(name, not _within(os.path.realpath(entry.path), home))
            else:
                found.add(name, outside)
        pending.extendleft(reversed(folders))
    for names in (found.images, found.tables, found.linked, *found.unread.values()):
        names.sort()
    return found


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """A folder's entries by name, without hidden ones."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if not entry.name.startswith(".") and entry.name not in _SYSTEM:
                yield entry


def _kind(entry: os.DirEntry[str]) -> str:
    """ "folder", "file", or why it is neither."""
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
        return DEAD if entry.is_symlink() and not os.path.exists(entry.path) else SPECIAL
    except OSError:  # a link to itself
        return DEAD


def _within(real: str, home: str) -> bool:
    """Whether a path lies in a folder, both without links."""
    return real == home or real.startswith(home.rstrip(os.sep) + os.sep)
