"""Scenes to pixels: a background, blended masks or sprites on it, and a style over the whole.

S is the image's side in pixels. Integer arithmetic only, so shapes give the same bytes everywhere.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclip.data.world.scene import GRID, RGB, Object, Scene
from unclip.data.world.scenery import draw_background
from unclip.data.world.shapes import CACHE_BYTES, ArrayCache, mask

Image = NDArray[np.uint8]  # (S, S, 3)
Sprite = Callable[[str, int], tuple[NDArray[np.uint16], NDArray[np.uint16]]]

BLOCKS: Final = 16  # pixelated: blocks along one side
GRAPHITE: Final[RGB] = (52, 52, 56)
OUTLINE: Final = 3  # pencil: width of the outline in 128ths of the side
HATCH_PERIOD: Final = 96  # pencil: from stroke to stroke along x + y, in 1024ths of the side
PAPER: Final = (16, 112)  # pencil: least and most of the white paper that shows, in 256ths
# Posterised: light falls in four flat bands; each keeps this many 256ths of the colour and adds
# this much white.
BANDS: Final = ((204, 52), (256, 0), (222, 0), (188, 0))


def render_scene(scene: Scene, size: int, sprite: Sprite) -> Image:
    """The scene as (size, size, 3) uint8. `sprite` draws emoji: (name, pixels) -> colours."""
    canvas = draw_background(scene.background, size)
    if scene.style == "pencil":
        canvas = _hatched(canvas, size)
    # What is inside or on something is drawn over it.
    for thing in reversed(scene.objects):
        if thing.kind == "emoji":
            _draw_emoji(canvas, thing, size, scene.style, sprite)
        elif scene.style == "pencil":
            _draw_pencil(canvas, thing, size)
        else:
            _draw_shape(canvas, thing, size)
    if scene.style == "pixelated":
        return _pixelated(canvas, size)
    if scene.style == "posterised":
        return _posterised(canvas, size)
    return canvas


def _half_pixels(centre: float, extent: float, size: int) -> int:
    """Where a box starts, in half pixels; exact, as coordinates are multiples of 1/256."""
    return int((2 * centre - extent) * size + 0.5)


def _blend(
    canvas: Image,
    cover: NDArray[np.uint16],
    rest: NDArray[np.uint16],
    colour: NDArray[np.uint16],
    left: int,
    top: int,
) -> None:
    height, width = cover.shape[:2]
    if left < 0 or top < 0 or left + width > canvas.shape[1] or top + height > canvas.shape[0]:
        rows = slice(max(-top, 0), canvas.shape[0] - top)
        columns = slice(max(-left, 0), canvas.shape[1] - left)
        cover, rest = cover[rows, columns], rest[rows, columns]
        colour = colour[rows, columns] if colour.ndim == 3 else colour
        left, top = max(left, 0), max(top, 0)
        height, width = cover.shape[:2]
    window = canvas[top : top + height, left : left + width]
    window[...] = (window * rest + cover * colour + 128) >> 8


def _draw_shape(canvas: Image, thing: Object, size: int) -> None:
    extent = round(thing.extent * GRID)
    left = _half_pixels(thing.x, thing.extent, size)
    top = _half_pixels(thing.y, thing.extent, size)
    phase = (left & 1, top & 1)
    left, top = left // 2, top // 2
    cover, rest = mask(thing.name, "plain", size, extent, *phase)
    colour = np.array(thing.rgb, dtype=np.uint16)
    _blend(canvas, cover, rest, colour, left, top)
    if thing.texture != "plain":
        cover, rest = mask(thing.name, thing.texture, size, extent, *phase)
        _blend(canvas, cover, rest, np.array(thing.accent, dtype=np.uint16), left, top)


def _draw_emoji(canvas: Image, thing: Object, size: int, style: str, sprite: Sprite) -> None:
    pixels = max(1, int(thing.extent * size + 0.5))
    colours, rest = sprite(thing.name, pixels)
    left = _half_pixels(thing.x, thing.extent, size) // 2
    top = _half_pixels(thing.y, thing.extent, size) // 2
    window = canvas[top : top + pixels, left : left + pixels]
    height, width = window.shape[:2]
    colours, rest = colours[:height, :width], rest[:height, :width]
    if style == "pencil":
        paper, ground = _hatch(size)
        paper, ground = paper[::-1][:height, :width], ground[::-1][:height, :width]
        colours = (colours >> 8) * ground + ((255 * (256 - rest)) >> 8) * paper
    window[...] = (window * rest + colours + 128) >> 8


def _spread(cover: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
    """Coverage grown by `reach` 128ths of a pixel; pixel fractions grow in part."""
    whole, part = divmod(reach, 128)
    for _ in range(whole):
        cover = _grown(cover)
    return (cover * (128 - part) + _grown(cover) * part) // 128 if part else cover


def _grown(cover: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each pixel's maximum with its four neighbours'."""
    grown = cover.copy()
    np.maximum(grown[1:], cover[:-1], out=grown[1:])
    np.maximum(grown[:-1], cover[1:], out=grown[:-1])
    np.maximum(grown[:, 1:], cover[:, :-1], out=grown[:, 1:])
    np.maximum(grown[:, :-1], cover[:, 1:], out=grown[:, :-1])
    return grown


_pencils = ArrayCache(CACHE_BYTES)


def _pencil_masks(
    name: str, size: int, extent: int, half_x: int, half_y: int
) -> tuple[NDArray[np.uint16], ...]:
    """Outline and filling of a shape, padded on all sides by `_padding(size)` pixels."""
    key = (name, size, extent, half_x, half_y)
    entry = _pencils.get(key)
    if entry is None:
        cover, _ = mask(name, "plain", size, extent, half_x, half_y)
        flat = np.pad(cover[..., 0].astype(np.int64), _padding(size))
        outline = _spread(flat, OUTLINE * size * 2 // 3)
        filling = 256 - _spread(256 - flat, OUTLINE * size // 3)
        masks = (outline, 256 - outline, filling, 256 - filling)
        entry = _pencils.put(key, *(array.astype(np.uint16)[..., None] for array in masks))
    return entry


def _padding(size: int) -> int:
    return 1 + OUTLINE * size // 128


def _draw_pencil(canvas: Image, thing: Object, size: int) -> None:
    extent = round(thing.extent * GRID)
    left = _half_pixels(thing.x, thing.extent, size)
    top = _half_pixels(thing.y, thing.extent, size)
    outline, ground, filling, rest = _pencil_masks(thing.name, size, extent, left & 1, top & 1)
    left, top = left // 2 - _padding(size), top // 2 - _padding(size)
    _blend(canvas, outline, ground, np.array(GRAPHITE, dtype=np.uint16), left, top)
    paper, ground = _hatch(size)
    # The strokes of objects run across those of the background.
    height, width = outline.shape[:2]
    paper, ground = paper[::-1][:height, :width], ground[::-1][:height, :width]
    colour = ((np.array(thing.rgb, dtype=np.uint16) * ground + paper * 255) >> 8).astype(np.uint16)
    _blend(canvas, filling, rest, colour, left, top)


@lru_cache(maxsize=8)
def _hatch(size: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Diagonal pencil strokes: the paper's share (0..256) between them, and the rest."""
    # Strokes depend on x + y alone: 4 x 4 samples a pixel, summed along one diagonal.
    across = np.arange(1, 8 * size) * 256 // size  # 0..2048 along the diagonal
    fine = abs(across % HATCH_PERIOD - HATCH_PERIOD // 2) * 256 // (HATCH_PERIOD // 2)
    shifted = [fine[a + b :: 4][: 2 * size - 1] for a in range(4) for b in range(4)]
    wave = (np.sum(shifted, axis=0) // 16)[np.add.outer(np.arange(size), np.arange(size))]  # (S, S)
    paper = (PAPER[0] + wave * (PAPER[1] - PAPER[0]) // 256).astype(np.uint16)[..., None]
    return paper, (256 - paper).astype(np.uint16)


def _hatched(canvas: Image, size: int) -> Image:
    """The canvas as if crayoned on white paper."""
    paper, rest = _hatch(size)
    hatched: Image = ((canvas * rest + paper * 255) >> 8).astype(np.uint8)
    return hatched


@lru_cache(maxsize=8)
def _block_edges(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Start of each block, its length, and the pixels in each block of the image."""
    edges = np.arange(BLOCKS + 1) * size // BLOCKS
    lengths = np.diff(edges)
    return edges[:-1], lengths, (lengths[:, None] * lengths[None, :])[..., None]


def _pixelated(canvas: Image, size: int) -> Image:
    starts, lengths, areas = _block_edges(size)
    sums = np.add.reduceat(canvas.astype(np.int64), starts, axis=0)
    sums = np.add.reduceat(sums, starts, axis=1)
    blocks = ((sums + areas // 2) // areas).astype(np.uint8)
    return np.repeat(np.repeat(blocks, lengths, axis=0), lengths, axis=1)


@lru_cache(maxsize=8)
def _bands(size: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    steps = 2 * np.arange(size) + 1
    band = (steps[:, None] + steps[None, :]) * len(BANDS) // (4 * size)  # diagonal, 0..3
    keep, white = (np.array(column, dtype=np.uint16)[band] for column in zip(*BANDS, strict=True))
    return keep[..., None], (white * 255)[..., None]


def _posterised(canvas: Image, size: int) -> Image:
    keep, white = _bands(size)
    lit: Image = ((canvas * keep + white) >> 8).astype(np.uint8)
    return lit
