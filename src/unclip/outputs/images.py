"""Finished images: PNG files that know how they were made, and labelled contact sheets."""

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from unclip.checks import printable
from unclip.files import as_path, open_regular, whole

KEY = "unclip"
"""Keyword of the PNG text that holds the JSON."""
_MAX_INFO = 2**20  # bytes; a prompt of 100,000 characters of any script fits
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def save_png(image: Image.Image, path: str | os.PathLike[str], info: Mapping[str, Any]) -> None:
    """Write a PNG that carries `info`, whole or not at all; missing folders are made.

    info: JSON-ready; `prompt` (str, or a list for a sheet), `seed` (int), `model` (str), `settings`
    (argument -> value), and for sheets `n` (int) and `output` (str), are what the command line
    makes the image again from. It is stored twice, as UTF-8 text chunks: readable under
    "parameters", as JSON under "unclip".

    ValueError, one sentence: a name that does not end in .png, a place that cannot be written, a
    full disk, info that JSON cannot hold or of more than 1 MiB.
    """
    path = as_path(path, "path")
    check_png(path)
    write_whole(path, encoded(image, info))


def check_png(path: Path) -> None:
    """`ValueError` for a name that does not end in .png."""
    if path.suffix.lower() != ".png":
        raise ValueError(
            f"{printable(str(path))} does not end in .png; images are written as PNG only"
        )


def encoded(image: Image.Image, info: Mapping[str, Any]) -> bytes:
    """A PNG that carries `info`."""
    data = BytesIO()
    image.save(data, "PNG", pnginfo=text_chunks(info))
    return data.getvalue()


def read_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The `info` of an image written by `save_png`, without decoding pixels.

    ValueError, one sentence: not a PNG, cut short, without info, or with info that is damaged or
    over 1 MiB.
    """
    path = as_path(path, "path")
    try:
        with open_regular(path) as file:
            if file.read(len(_SIGNATURE)) != _SIGNATURE:
                raise ValueError(f"{path} is not a PNG image; only those say how unclip made them")
            texts = (_our_text(body, path) for kind, body in _chunks(file, path) if kind == b"iTXt")
            text = next((text for text in texts if text is not None), None)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if text is None:
        raise ValueError(f"{path} does not say how it was made; only images written by unclip do")
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{path} holds damaged notes on how it was made") from None
    if not isinstance(info, dict):
        raise ValueError(f"{path} holds damaged notes on how it was made")
    return info


def text_chunks(info: Mapping[str, Any]) -> PngInfo:
    """`info` as the two text chunks of a PNG; ValueError if it is none, or over 1 MiB."""
    if not isinstance(info, Mapping):
        raise ValueError(f"info must be a mapping of names to values, not {type(info).__name__}")
    try:
        data = json.dumps(info, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"info holds what JSON cannot: {error}") from None
    try:
        data.encode()
    except UnicodeEncodeError:  # half a surrogate pair, from a broken terminal: \uXXXX keeps it
        data = json.dumps(info)
    if len(data.encode()) > _MAX_INFO:
        raise ValueError("prompt and settings are over 1 MiB, too long to be kept in the image")
    chunks = PngInfo()
    chunks.add_itxt("parameters", _readable(info))
    chunks.add_itxt(KEY, data)
    return chunks


def _readable(info: Mapping[str, Any]) -> str:
    settings = info.get("settings")
    rest = {key: value for key, value in info.items() if key not in ("prompt", "settings")}
    rest.update(settings if isinstance(settings, Mapping) else {})
    line = ", ".join(f"{key}: {value}" for key, value in rest.items() if value is not None)
    prompts = info.get("prompt", "")
    text = "\n".join([*(prompts if isinstance(prompts, list) else [str(prompts)]), line])
    return text.replace("\0", " ").encode("utf-8", "replace").decode()


def write_whole(path: Path, data: bytes) -> None:
    """Write bytes, whole or not at all; folders on the way are made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial:
            partial.write_bytes(data)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        reason = str(reason).removeprefix(f"cannot write {path}: ")
        raise ValueError(f"{path} cannot be written: {reason}; choose another place") from None


def _chunks(file: BinaryIO, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """(type, body) of a PNG's chunks; bodies of what is not text, and of huge text, are skipped."""
    size = os.fstat(file.fileno()).st_size
    while True:
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        if file.tell() + length + 4 > size:
            raise ValueError(f"{path} is cut short")
        if kind == b"iTXt" and length <= _MAX_INFO + 1024:
            yield kind, file.read(length)
            file.seek(4, os.SEEK_CUR)  # checksum
        else:
            if kind == b"iTXt" and file.read(len(KEY) + 1) == KEY.encode() + b"\0":
                raise ValueError(f"{path} holds notes of over 1 MiB, which unclip does not write")
            file.seek(length + 4 - (len(KEY) + 1 if kind == b"iTXt" else 0), os.SEEK_CUR)


def _our_text(body: bytes, path: Path) -> str | None:
    """The text of an iTXt chunk (PNG specification, 11.3.3.4) if it is ours, else None."""
    if not body.startswith(KEY.encode() + b"\0"):
        return None
    try:
        compressed, method = body[len(KEY) + 1 : len(KEY) + 3]
        _, _, text = body[len(KEY) + 3 :].split(b"\0", 2)
        if compressed:
            unpacker = zlib.decompressobj()
            text = unpacker.decompress(text, _MAX_INFO)
            if method != 0 or not unpacker.eof:  # more to come: a bomb
                raise ValueError
        return text.decode()
    except (ValueError, zlib.error):
        raise ValueError(f"{path} holds damaged notes on how it was made") from None


# --- contact sheets -------------------------------------------------------------------------------

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 33, 36), (232, 234, 237)
# Fonts with more scripts than Pillow's own, which has Latin alone; used where they are installed.
_WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "Arial Unicode.ttf",
    "arialuni.ttf",
    "arial.ttf",
)
_MAX_LABEL = 200  # characters
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box = tuple[int, int, int, int]


def contact_sheet(
    images: Sequence[Sequence[Image.Image | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    path: str | os.PathLike[str] | None = None,
    *,
    cell: int | None = None,
    title: str = "",
    info: Mapping[str, Any] | None = None,
) -> Image.Image:
    """A labelled grid of images, on white: rows x columns, with labels left and on top.

    images: one sequence per row; None and missing ones stay empty. cell: side of the square that
    each image fits into, pixels; by default the images' own size, at least 96. Labels are wrapped,
    and cut after 200 characters. Scripts that no font at hand has appear as boxes.

    path: where to write the sheet too, as PNG with `info`. Returns the sheet.
    ValueError: no image at all, more labels than rows or columns, or a sheet over 100 megapixels.
    """
    sheet = labelled_sheet(images, row_labels, column_labels, cell, title).image
    if path is not None:
        save_png(sheet, path, info or {})
    return sheet


@dataclass(frozen=True)
class Sheet:
    """A labelled grid of images, and the box (left, top, right, bottom) of each image on it."""

    image: Image.Image
    boxes: Sequence[Sequence[Box | None]]


def labelled_sheet(
    images: Sequence[Sequence[Image.Image | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    cell: int | None = None,
    title: str = "",
) -> Sheet:
    """The sheet of `contact_sheet`, and where its images are."""
    columns = max((len(row) for row in images), default=0)
    present = [image for row in images for image in row if image is not None]
    if not present:
        raise ValueError("a contact sheet needs at least one image")
    if len(row_labels) > len(images) or len(column_labels) > columns:
        raise ValueError("the contact sheet has more labels than rows or columns")
    cell = cell or max(96, max(max(image.size) for image in present))
    page = _Page(cell, len(images), columns, row_labels, column_labels, title)
    boxes = [[page.place(image, x, y) for x, image in enumerate(row)]
             for y, row in enumerate(images)]  # fmt: skip
    return Sheet(page.image, boxes)


class _Page:
    """The page: measures its labels first, then takes images."""

    def __init__(
        self, cell: int, rows: int, columns: int,
        row_labels: Sequence[str], column_labels: Sequence[str], title: str,
    ) -> None:  # fmt: skip
        self.cell = cell
        self.gap = max(6, cell // 20)
        text = min(28, max(12, cell // 9))
        left = [_Label(label, text, max(140, round(cell * 1.1))) for label in row_labels]
        top = [_Label(label, text, cell) for label in column_labels]
        full = columns * (cell + self.gap) - self.gap
        self.x0 = 2 * self.gap + (max(label.width for label in left) + self.gap if left else 0)
        head = _Label(title, round(text * 1.3), full + self.x0 - 2 * self.gap)
        head_height = head.height + self.gap if title else 0
        self.y0 = 2 * self.gap + head_height
        self.y0 += max(label.height for label in top) + self.gap if top else 0
        # A row whose label is taller than its image grows.
        self.heights = [
            max(cell, left[row].height if row < len(left) else 0) for row in range(rows)
        ]
        width = self.x0 + full + 2 * self.gap
        height = self.y0 + sum(self.heights) + (rows - 1) * self.gap + 2 * self.gap
        if width * height > 100_000_000:
            raise ValueError(f"a contact sheet of {width} x {height} pixels is too big; show fewer")
        self.image = Image.new("RGB", (width, height), _PAPER)
        self.draw = ImageDraw.Draw(self.image)
        head.write(self.draw, 2 * self.gap, 2 * self.gap)
        for column, label in enumerate(top):
            x = self.x0 + column * (cell + self.gap) + (cell - label.width) // 2
            label.write(self.draw, x, self.y0 - self.gap - label.height, "center")
        for row, label in enumerate(left):
            y = self._top(row) + (self.heights[row] - label.height) // 2
            label.write(self.draw, self.x0 - self.gap - label.width, y, "right")

    def _top(self, row: int) -> int:
        return self.y0 + sum(self.heights[:row]) + row * self.gap

    def place(self, image: Image.Image | None, column: int, row: int) -> Box | None:
        """Put an image into its cell, or grey; where it lies."""
        x, y = self.x0 + column * (self.cell + self.gap), self._top(row)
        y += (self.heights[row] - self.cell) // 2
        if image is None:
            self.draw.rectangle((x, y, x + self.cell - 1, y + self.cell - 1), fill=_FAINT)
            return None
        scale = self.cell / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        # Small images are enlarged in whole pixels, so that what the model made stays visible.
        sharp = scale >= 2 and max(image.size) <= 64
        filter_ = Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS
        image = image.convert("RGB").resize((width, height), filter_)
        left, top = x + (self.cell - width) // 2, y + (self.cell - height) // 2
        self.image.paste(image, (left, top))
        return left, top, left + width, top + height


class _Label:
    """Text wrapped to a width, in a font that has its letters where one is installed."""

    def __init__(self, text: str, size: int, width: int) -> None:
        text = "".join(c if c.isprintable() else " " for c in text[: _MAX_LABEL + 1])
        text = text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"
        self.font = _font(text, size)
        if isinstance(self.font, ImageFont.ImageFont):  # Pillow without FreeType: Latin-1 bitmaps
            text = text.encode("latin-1", "replace").decode("latin-1")
        self.spacing = size // 4
        self.text = "\n".join(self._wrapped(text, width))
        draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        # As high as if letters went up and down as far as they do: baselines are then level.
        tall = "\n".join(f"{line}Åg" for line in self.text.split("\n"))
        above, below = (
            draw.multiline_textbbox((0, 0), text, self.font, spacing=self.spacing)
            for text in (self.text, tall)
        )
        self.width, self.height = round(above[2]), round(below[3]) + size // 6

    def _wrapped(self, text: str, width: int) -> Iterator[str]:
        line = ""
        for word in text.split():
            if line and self.font.getlength(f"{line} {word}") <= width:
                line = f"{line} {word}"
                continue
            if line:
                yield line
            line = ""
            for character in word:  # a word longer than the line is broken anywhere
                if line and self.font.getlength(line + character) > width:
                    yield line
                    line = ""
                line += character
        yield line

    def write(self, draw: ImageDraw.ImageDraw, x: int, y: int, align: str = "left") -> None:
        draw.multiline_text((x, y), self.text, _INK, self.font, spacing=self.spacing, align=align)


def _font(text: str, size: int) -> Font:
    """Pillow's own font if it has all the letters, else the installed one that lacks fewest."""
    letters = "".join(sorted({letter for letter in text if letter > "~"}))
    candidates = (_load_font(name, size) for name in ("", *_WIDE_FONTS))
    best, fewest = ImageFont.load_default(size), len(letters) + 1
    for font in candidates:
        lacking = 0 if font is None or not letters else _lacking(font, letters)
        if font is not None and lacking < fewest:
            best, fewest = font, lacking
        if fewest == 0:
            break
    return best


@lru_cache(32)
def _load_font(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:  # not installed
        return None


def _lacking(font: Font, letters: str) -> int:
    """How many letters the font draws as its box for unknown ones."""
    try:
        box = bytes(font.getmask("\uffff"))
        return sum(bytes(font.getmask(letter)) == box for letter in letters)
    except UnicodeEncodeError:  # Pillow without FreeType
        return len(letters)
