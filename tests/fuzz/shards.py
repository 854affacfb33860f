"""Tar shards, and Arrow and Parquet files, of every wrong kind."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Case, Good
from tests.fuzz.hostile import JSON, WORDS, document, replace, spoil_bytes
from unclip.data.registry import open_source
from unclip.data.sources import Source

_CLIP = (
    *("--dry-run", "--network.size", "tiny", "--network.vocab-size", "560", "--data.workers", "0"),
    *("--network.context-length", "24", "--training.batch-size", "2", "--data.size", "16"),
)
_NAMES = (
    *("a.png", "a.PNG", "a.b.png", "./a.png", "../a.png", "/etc/a.png", "d/a.png", ".png", "a"),
    *("a.jpg", "a.txt", "a.json", "__MACOSX/a.png", "é.png", "日本.png", "a\udcff.png", "a b.png"),
    *("x" * 200 + ".png", "a\nb.png", "\x1b[2J.png", "001.png", "001.txt", "~", "C:\\a.png"),
)
_KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
_ENDINGS = (".tar", ".TAR", ".parquet", ".arrow", ".tar.gz", "", ".zip")


def make(random: Random, place: Path, good: Good) -> Case:
    kind = random.choice(("tar", "tar", "parquet", "arrow"))
    file = place / f"data.{kind}"
    write: Callable[[Random, Path, Good], str] = _tar if kind == "tar" else _table
    said = f"{kind}: {write(random, file, good)}"
    if random.random() < 0.6:
        said += f", {(replace if random.random() < 0.1 else spoil_bytes)(random, file)}"
    if file.is_file() and random.random() < 0.05:
        file = file.rename(place / f"data{random.choice(_ENDINGS)}")
        said += f", named {file.name}"
    name = f"{'wds' if kind == 'tar' else 'hf'}:{file.name}"
    model = ("--model", str(good.model), "--precision", "fp32")
    ways: dict[str, tuple[str, ...]] = {
        "inspect": ("data", "inspect", name, "--decode", "--size", "16"),
        "train": ("train", "clip", "--model", "m", "--run", "r", "--data", name, *_CLIP),
        "embed": ("embed", name, "-o", "e", "--size", "16", *model),
    }
    if kind == "tar":
        ways["index"] = ("data", "index", name, "--workers", "1")
    way = random.choice((*ways, "read", "read"))
    kept = (".unclip-index",)  # of what is good enough for an index
    if way == "read":
        return Case(f"read {said}", call=lambda: _read(name), keeps=kept)
    return Case(f"{way} {said}", ways[way], keeps=kept)


def _read(name: str) -> None:
    source: Any = open_source(name, size=16, split="all", template="a {}")
    known: Source = source
    print(known.check(decode=True))
    for index in range(min(20, len(known))):
        known[index]


def _pairs(good: Good) -> list[tuple[bytes, str]]:
    files = sorted((good.root / "images").glob("*.png"))
    return [(file.read_bytes(), file.with_suffix(".txt").read_text()) for file in files]


def _said_of(random: Random, caption: str) -> tuple[str, bytes, str]:
    """Ending, content and what is said of a caption beside an image."""
    if random.random() < 0.6:
        return ".txt", caption.encode(), "text"
    good = {"caption": caption, "url": "https://example.com"}
    text, said = document(random, good, JSON, json.dumps)
    return ".json", text.encode("utf-8", "surrogatepass"), said


def _tar(random: Random, file: Path, good: Good) -> str:
    said = []
    formats = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)
    with tarfile.open(file, "w", format=random.choice(formats)) as tar:
        for number, (image, caption) in enumerate(_pairs(good)):
            ending, text, how = _said_of(random, caption)
            _add(tar, f"{number:03}.png", image)
            _add(tar, f"{number:03}{ending}", text)
            said.append(how)
            if random.random() < 0.2:
                name = random.choice((*_NAMES, random.choice(WORDS) or "x"))
                said.append(f"member {name[:30]!r}")
                _strange(random, tar, name, image)
    return "; ".join(one for one in said if one != "text")[:200] or "good"


def _strange(random: Random, tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A member that a shard does not have; one whose name the format cannot hold is left out."""
    info = tarfile.TarInfo(name)
    if random.random() < 0.4:
        info.type, info.linkname = random.choice(_KINDS), random.choice(("000.png", "/etc/passwd"))
        content = b""
    info.size = len(content)
    try:
        tar.addfile(info, io.BytesIO(content))
    except (UnicodeError, ValueError):
        return


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _table(random: Random, file: Path, good: Good) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pairs = _pairs(good)
    images: list[Any] = [{"bytes": image, "path": f"{n}.png"} for n, (image, _) in enumerate(pairs)]
    captions: list[Any] = [text for _, text in pairs]
    how = random.choice(("good", "holes", "lists", "numbers", "raw", "paths", "names", "none"))
    if how == "holes":
        images[1], captions[2] = None, None
        images[3] = {"bytes": None, "path": random.choice(("/etc/passwd", "", "x.png", None))}
    elif how == "lists":
        captions = [[text, ""] if n % 2 else [] for n, text in enumerate(captions)]
    elif how == "numbers":
        captions = list(range(len(captions)))
    elif how == "raw":
        images = [image for image, _ in pairs]
    elif how == "paths":
        images = [f"{n}.png" for n in range(len(pairs))]
    columns = {"image": images, "text": captions}
    if how == "names":
        columns = {random.choice(("image", "Image", "x", "")): images,
                   random.choice(("text", "caption", "Label", "y")): captions}  # fmt: skip
    if how == "none":
        columns = {key: [] for key in columns}
    table = pa.table(columns)
    if file.suffix == ".parquet":
        pq.write_table(table, file, row_group_size=2)
    else:
        new = random.choice((pa.ipc.new_stream, pa.ipc.new_file))
        with pa.OSFile(str(file), "wb") as sink, new(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return how
