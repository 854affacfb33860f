"""Backgrounds of the built-in world: what they look like, and which colours stand out on them.

S is the image's side in pixels; arrays are (S, S, 3) or broadcast to it. Integer arithmetic only.
"""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclip.data.world.scene import COLOURS, GRID, PALETTE, RGB, Background
from unclip.data.world.shapes import ArrayCache, mask
from unclip.randomness import Draws

Pixels = NDArray[np.uint16]

VARIANTS: Final = 8  # of each painted background
CACHE_BYTES: Final = 64 << 20
# Squared weighted distance (3, 4, 2 for red, green, blue) below which two colours are too alike.
MIN_CONTRAST: Final = 45_000

# Top and bottom of the far part and of the near part of each painted background.
_PAINT: Final[dict[str, tuple[RGB, RGB, RGB, RGB]]] = {
    "sky and grass": ((96, 178, 244), (176, 222, 250), (122, 196, 84), (70, 146, 48)),
    "sea": ((150, 206, 240), (226, 240, 246), (36, 130, 180), (10, 86, 138)),
    "night": ((8, 12, 40), (24, 30, 84), (24, 30, 84), (36, 40, 104)),
    "room": ((222, 224, 214), (208, 212, 202), (208, 172, 130), (188, 150, 108)),
}
PAINTED: Final = tuple(_PAINT)


def contrast(first: RGB, second: RGB) -> int:
    """Squared distance of two colours, weighted 3, 4, 2 for red, green, blue."""
    red, green, blue = (a - b for a, b in zip(first, second, strict=True))
    return 3 * red * red + 4 * green * green + 2 * blue * blue


def _lerp(first: RGB, second: RGB, step: int, steps: int) -> RGB:
    red, green, blue = (
        (a * (steps - step) + b * step) // steps for a, b in zip(first, second, strict=True)
    )
    return red, green, blue


def surroundings(kind: str, colours: tuple[str, ...]) -> tuple[RGB, ...]:
    """The colours that an object can have around it on this background."""
    if kind == "flat":
        return (PALETTE[colours[0]],)
    if kind == "gradient":
        first, second = (PALETTE[name] for name in colours)
        return tuple(_lerp(first, second, step, 4) for step in range(5))
    return _PAINT[kind]


@cache
def visible_colours(kind: str, colours: tuple[str, ...]) -> tuple[str, ...]:
    """The object colours that stand out everywhere on this background."""
    around = surroundings(kind, colours)
    return tuple(
        name
        for name in COLOURS
        if all(contrast(PALETTE[name], other) >= MIN_CONTRAST for other in around)
    )


def accent_colour(colour: RGB, around: tuple[RGB, ...]) -> RGB:
    """The stripes' or dots' colour: a tint or shade of `colour` that stands out from `around`."""
    tint = _lerp(colour, (255, 255, 255), 5, 8)
    shade = _lerp(colour, (0, 0, 0), 7, 16)
    scores = [
        min(contrast(option, other) for other in (colour, *around)) for option in (tint, shade)
    ]
    return tint if scores[0] >= scores[1] else shade


def _ramp(first: RGB, second: RGB, size: int) -> Pixels:
    """Colours of `size` pixels from `first` to `second`."""
    step = 2 * np.arange(size)[:, None] + 1
    start, stop = np.array(first), np.array(second)
    return ((start * (2 * size - step) + stop * step) // (2 * size)).astype(np.uint16)  # (S, 3)


def _horizon(kind: str, variant: int, size: int) -> NDArray[np.int64]:
    """Coverage (0..256) of the near part, whose upper edge lies between 0.55 and 0.72 down."""
    column = (2 * np.arange(size) + 1) * 512 // size  # 0..1024 across the image
    edge = np.full(size, 560 + 22 * variant)
    if kind == "sky and grass":  # a low hill, higher at one side
        peak = 1024 * (variant % 4) // 3
        edge = edge - 60 + (column - peak) ** 2 // 11_000
    depth: NDArray[np.int64] = (np.arange(size)[:, None] + 1) * 256 - edge[None, :] * size // 4
    return np.asarray(np.clip(depth, 0, 256)[..., None])  # (S, S, 1)


def _night_sky(variant: int, size: int, canvas: Pixels) -> None:
    stream = Draws(GRID, variant)
    for _ in range(14):
        x, y = stream.between(1, 2 * GRID - 3), stream.between(1, 2 * GRID - 3)
        left, top = x * size // GRID, y * size // GRID  # in half pixels
        cover, _ = mask("circle", "plain", size, 1, left & 1, top & 1)
        rows, columns = cover.shape[:2]
        window = canvas[top // 2 : top // 2 + rows, left // 2 : left // 2 + columns]
        cover = cover[: window.shape[0], : window.shape[1]] // 2
        window[...] = (window * (256 - cover) + 235 * cover) >> 8


def _paint(kind: str, variant: int, size: int) -> NDArray[np.uint8]:
    far_top, far_bottom, near_top, near_bottom = _PAINT[kind]
    canvas = np.repeat(_ramp(far_top, far_bottom, size)[:, None, :], size, axis=1)
    if kind == "night":
        _night_sky(variant, size, canvas)
        return canvas.astype(np.uint8)
    near = _ramp(near_top, near_bottom, size).astype(np.int64)[:, None, :]
    row = (2 * np.arange(size)[:, None, None] + 1) * 512 // size  # 0..1024 down the image
    if kind == "sea":  # waves: lighter bands, wider the nearer
        near = near + abs((row * row // 700 + 40 * variant) % 128 - 64) // 3
    cover = _horizon(kind, variant, size)
    canvas = ((canvas * (256 - cover) + near * cover) >> 8).astype(np.uint16)
    if kind == "room":  # a skirting board: the near part's edge moved up, in white
        rows = max(1, size * 3 // GRID)
        above = np.concatenate([cover[rows:], np.full((rows, size, 1), 256)])
        board = above - cover
        canvas = ((canvas * (256 - board) + 246 * board) >> 8).astype(np.uint16)
    return canvas.astype(np.uint8)


_painted = ArrayCache(CACHE_BYTES)


def draw_background(background: Background, size: int) -> NDArray[np.uint8]:
    """A fresh (size, size, 3) canvas with the background on it."""
    canvas: NDArray[np.uint8]
    if background.kind == "flat":
        canvas = np.empty((size, size, 3), dtype=np.uint8)
        canvas[...] = np.array(background.rgbs[0], dtype=np.uint8)
        return canvas
    if background.kind == "gradient":
        ramp = _ramp(background.rgbs[0], background.rgbs[1], size).astype(np.uint8)
        canvas = np.empty((size, size, 3), dtype=np.uint8)
        canvas[...] = ramp[None] if background.variant % 2 else ramp[:, None]
        return canvas
    key = (background.kind, background.variant, size)
    entry = _painted.get(key)
    if entry is None:
        entry = _painted.put(key, _paint(background.kind, background.variant, size))
    canvas = entry[0].copy()
    return canvas
