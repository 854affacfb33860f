"""A labelled contact sheet of the built-in world: images with their captions under them."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unclip.data.world.scene import WorldConfig
from unclip.data.world.world import World
from unclip.files import whole

MIN_CELL: Final = 150  # pixels: narrower cells would break captions into too many lines
LINES: Final = 5
TEXT_SIZE: Final = 13
LABEL_FONTS: Final = ("NotoSans-Regular.ttf", "DejaVuSans.ttf", "LiberationSans-Regular.ttf")
BORDER: Final = 8


def _label_font(language: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if language != "en":  # Pillow's own font has only ASCII
        for name in LABEL_FONTS:
            with contextlib.suppress(OSError):
                return ImageFont.truetype(name, TEXT_SIZE)
    return ImageFont.load_default(TEXT_SIZE)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"{lines[LINES - 1]} …"]
    return "\n".join(lines)


def preview(
    path: str | Path,
    config: WorldConfig | None = None,
    rows: int = 6,
    columns: int = 8,
    seed: int | None = None,
) -> None:
    """Write a PNG of `rows` x `columns` scenes, each at the config's size with its caption.

    The file appears whole or not at all. `seed` replaces the config's seed.

    Raises:
        ValueError: if rows or columns is not in 1..64, or the file cannot be written.
    """
    if not (1 <= rows <= 64 and 1 <= columns <= 64):
        raise ValueError(f"a sheet of {rows} x {columns} is out of range; give 1 to 64 of each")
    config = config or WorldConfig()
    if seed is not None:
        config = replace(config, seed=seed)
    world = World(config)
    font = _label_font(config.language)
    # Small images are enlarged by a whole factor, so that their pixels stay visible.
    scale = max(1, -(-MIN_CELL // config.size))
    side = config.size * scale
    cell = (side + BORDER, side + LINES * (TEXT_SIZE + 4) + BORDER)
    sheet = Image.new("RGB", (columns * cell[0] + BORDER, rows * cell[1] + BORDER), "white")
    pen = ImageDraw.Draw(sheet)
    for index in range(rows * columns):
        pixels, caption = world[index]
        left = BORDER + index % columns * cell[0]
        top = BORDER + index // columns * cell[1]
        enlarged = np.repeat(np.repeat(pixels, scale, axis=0), scale, axis=1)
        sheet.paste(Image.fromarray(enlarged), (left, top))
        pen.multiline_text((left, top + side + 2), _wrapped(caption, font, side), "black", font)
    _write_png(sheet, Path(path))


def _write_png(sheet: Image.Image, path: Path) -> None:
    try:
        with whole(path) as partial:
            sheet.save(partial, format="PNG")
    except ValueError as error:
        raise ValueError(f"{error}; choose another place") from None
