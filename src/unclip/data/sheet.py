"""A labelled contact sheet of captioned images: their captions under them."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from unclip.files import whole

MIN_CELL: Final = 150  # pixels: narrower cells would break captions into too many lines
LINES: Final = 5
TEXT_SIZE: Final = 13
LABEL_FONTS: Final = (
    *("NotoSans-Regular.ttf", "DejaVuSans.ttf", "LiberationSans-Regular.ttf"),
    *("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf"),
)
BORDER: Final = 8

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def label_font(ascii_only: bool) -> Font:
    """Pillow's own font, or an installed one where letters beyond ASCII are to be drawn."""
    if not ascii_only:
        for name in LABEL_FONTS:
            with contextlib.suppress(OSError):
                return ImageFont.truetype(name, TEXT_SIZE)
    return ImageFont.load_default(TEXT_SIZE)


def _wrapped(text: str, font: Font, width: int) -> str:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"{lines[LINES - 1]} …"]
    return "\n".join(_fitting(line, font, width) for line in lines)


def _fitting(line: str, font: Font, width: int) -> str:
    """A line without the end of a word that is wider than all of it."""
    while len(line) > 1 and font.getlength(line) > width:
        line = f"{line[:-2]}…"
    return line


def draw_sheet(
    path: Path,
    samples: Iterable[tuple[npt.NDArray[np.uint8], str]],
    rows: int,
    columns: int,
    size: int,
    font: Font,
) -> None:
    """Write a PNG of captioned images; it appears whole or not at all.

    Args:
        samples: (H, W, 3) pixels and captions, at most rows × columns of them.
        size: H and W. Small images are enlarged by a whole factor, so that pixels stay visible.

    Raises:
        ValueError: the file cannot be written.
    """
    scale = max(1, -(-MIN_CELL // size))
    side = size * scale
    cell = (side + BORDER, side + LINES * (TEXT_SIZE + 4) + BORDER)
    sheet = Image.new("RGB", (columns * cell[0] + BORDER, rows * cell[1] + BORDER), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (pixels, caption) in enumerate(samples):
        left = BORDER + index % columns * cell[0]
        top = BORDER + index // columns * cell[1]
        enlarged = np.repeat(np.repeat(pixels, scale, axis=0), scale, axis=1)
        sheet.paste(Image.fromarray(enlarged), (left, top))
        pen.multiline_text((left, top + side + 2), _wrapped(caption, font, side), "black", font)
    try:
        with whole(path) as partial:
            sheet.save(partial, format="PNG")
    except ValueError as error:
        raise ValueError(f"{error}; choose another place") from None
