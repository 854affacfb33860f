"""Folders of images with captions: tables, texts beside images, names, strangers."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzz.case import CODES, QUICK, Case, Good
from tests.fuzz.hostile import JSON, WORDS, document, replace, spoil_bytes
from unclip.data.folder import FolderSource

_CAPTIONS = (
    *(
        "a star",
        "",
        " ",
        '"',
        '""',
        'a "b" c',
        "a,b",
        "a\nb",
        "a\r\nb",
        "a\0b",
        "\x1b[2J",
        "\u202e",
    ),
    *(
        "x" * 200_000,
        "日本",
        "\ufeffa",
        "\ud800",
        "=1+1",
        "a\tb",
        "<|endoftext|>",
        "\u2028",
        "é" * 99,
    ),
)
_FILES = (
    *("000.png", "000.png", "./000.png", "sub/../000.png", "../000.png", "/etc/passwd", "", "."),
    *("000.PNG", "000.png ", "missing.png", "sub\\000.png", "C:\\x.png", "000.txt", "x" * 300),
    *("~/x.png", "\x1b[2J.png", "000.png\0", "https://example.com/x.png", "日本.png", "nul"),
)
_ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "utf-32")
_SMALL = (
    *("--dry-run", "--network.size", "tiny", "--network.vocab-size", "560", "--data.workers", "0"),
    *("--network.context-length", "24", "--training.batch-size", "2", "--data.size", "16"),
)


def make(random: Random, place: Path, good: Good) -> Case:
    data = good.copy("images", place)
    spoilers: tuple[Callable[[Random, Path], str], ...] = (_csv, _csv, _jsonl, _jsonl, _text, _tree)
    said = random.choice(spoilers)(random, data)
    way = random.random()
    lists = [*data.glob("*.csv"), *data.glob("*.jsonl")]
    if lists and way < 0.25:  # a table of captions is one of prompts, too
        model = ("--model", str(good.model), *QUICK, "--prior-steps", "1")
        words = ("batch", str(lists[0]), "-o", "job", *model)
        return Case(f"batch: {said}", words, codes=CODES["batch"])
    if way < 0.45:
        words = ("train", "clip", "--model", "m", "--run", "r", "--data", "images", *_SMALL)
        return Case(f"train: {said}", words)
    if way < 0.7:
        model = ("--model", str(good.model), "--precision", "fp32")
        return Case(f"embed: {said}", ("embed", "images", *model, "-o", "o.safetensors"))
    return Case(f"read: {said}", call=lambda: _read(data))


def _read(data: Path) -> None:
    source = FolderSource(data, 16, split="all")
    print(source.check(decode=True))
    for index in range(len(source)):
        source[index]


def _encoded(random: Random, file: Path, text: str) -> str:
    encoding = random.choice(_ENCODINGS)
    errors = "surrogatepass" if encoding.startswith("utf") else "replace"
    file.write_bytes(text.encode(encoding, errors))
    return f"{file.name} in {encoding}"


def _csv(random: Random, data: Path) -> str:
    names = (
        "file",
        "caption",
        "file_name",
        "text",
        "image",
        "Caption",
        "",
        "file",
        "x\0",
        " file ",
    )
    head = random.choice((["file", "caption"], ["file", "caption"], random.sample(names, 3), []))
    rows = [head] + [[random.choice(_FILES), random.choice(_CAPTIONS)] for _ in range(4)]
    said = io.StringIO()
    quoting = random.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE))
    writer = csv.writer(said, delimiter=random.choice(",,,;\t"), quoting=quoting, escapechar="\\")
    for row in rows:
        writer.writerow(row + ["more"] * random.choice((0, 0, 0, 1, 50)))
    text = said.getvalue()
    if random.random() < 0.3:
        at = random.randrange(len(text))
        text = text[:at] + random.choice(('"', "\0", "\r", "\n", "\\", ",", '"' * 9)) + text[at:]
    file = data / random.choice(("captions.csv", "metadata.csv"))
    said_file = _encoded(random, file, text)
    return _perhaps_worse(random, file, f"{said_file}: {text[:60]!r}")


def _jsonl(random: Random, data: Path) -> str:
    rows = []
    for _ in range(3):
        row = {"file_name": random.choice(_FILES), "text": random.choice(_CAPTIONS)}
        rows.append(json.dumps(row))
    text, said = document(random, {"file_name": "000.png", "text": ["a", "b"]}, JSON, json.dumps)
    rows.insert(random.randrange(4), text)
    rows.insert(random.randrange(4), random.choice(("", "null", "[]", "1", "{", "}", "\x00", '"')))
    file = data / random.choice(("metadata.jsonl", "captions.jsonl"))
    said_file = _encoded(random, file, random.choice(("\n", "\r\n", "\n\n")).join(rows))
    return _perhaps_worse(random, file, f"{said_file}: {said}")


def _text(random: Random, data: Path) -> str:
    file = data / "001.txt"
    if random.random() < 0.4:
        return f"001.txt: {replace(random, file)}"
    caption = random.choice(_CAPTIONS)
    return f"{_encoded(random, file, caption)}: {caption[:40]!r}"


def _tree(random: Random, data: Path) -> str:
    """Names and places that a walk does not expect."""
    what = random.choice(("image", "name", "loop", "folder", "mac", "outside", "stranger", "none"))
    image = data / "002.png"
    if what == "image":
        return f"002.png: {random.choice((replace, spoil_bytes))(random, image)}"
    if what == "name":
        name = random.choice(WORDS).replace("/", "_")[:100] or "x"
        image.rename(data / f"{name}.png")
        (data / "002.txt").rename(data / f"{name}.txt")
        return f"named {name!r}"
    if what == "loop":
        (data / "sub").symlink_to(data)
    elif what == "folder":
        (data / "x.jpg").mkdir()
        (data / "captions.csv").mkdir()
    elif what == "mac":
        (data / "__MACOSX").mkdir()
        (data / "__MACOSX" / "._000.png").write_bytes(b"Mac OS X")
        (data / "._000.png").write_bytes(b"Mac OS X")
    elif what == "outside":
        (data / "out.png").symlink_to("/etc/passwd")
        (data / "out.txt").symlink_to("/etc/passwd")
    elif what == "stranger":
        return f"a stranger: {replace(random, data / random.choice(('x.png', 'x.txt', 'x.csv')))}"
    else:
        for file in data.glob("*.txt"):
            file.unlink()
    return what


def _perhaps_worse(random: Random, file: Path, said: str) -> str:
    if random.random() < 0.12:
        return f"{said}, {random.choice((replace, spoil_bytes))(random, file)}"
    return said
