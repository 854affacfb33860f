"""The shapes of the built-in world as antialiased masks, in integer arithmetic only.

A shape is a test on integer points of the square [-U, U]^2 (x to the right, y down). A mask counts
the sample points of each pixel that pass: no floating point, hence the same bytes everywhere.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unclip.data.world.scene import GRID

Points = NDArray[np.int64]
Inside = NDArray[np.bool_]
Mask = NDArray[np.uint16]  # (height, width, 1), coverage in 0..256

U: Final = 1000  # half a side of the shape's box
SAMPLES: Final = 4  # sample points along each side of a pixel
CACHE_BYTES: Final = 64 << 20

_TEXTURE_PERIOD: Final = 1000
_STRIPE: Final = 420  # width of an accent stripe, of each period, measured along x + y
_DOT_PITCH: Final = 640
_DOT_RADIUS: Final = 205


class ArrayCache:
    """Least-recently-used arrays within a budget of bytes; threads may share it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._entries: OrderedDict[tuple[object, ...], tuple[NDArray[Any], ...]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> tuple[NDArray[Any], ...] | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def put(self, key: tuple[object, ...], *arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Keep the arrays, drop the oldest ones beyond the budget, and hand the arrays back."""
        with self._lock:
            self._drop(self._entries.pop(key, ()))
            self._entries[key] = arrays
            self.held_bytes += sum(array.nbytes for array in arrays)
            while self.held_bytes > self.max_bytes and len(self._entries) > 1:
                self._drop(self._entries.popitem(last=False)[1])
            return arrays

    def _drop(self, arrays: tuple[NDArray[Any], ...]) -> None:
        self.held_bytes -= sum(array.nbytes for array in arrays)


def _disc(x: Points, y: Points, cx: int, cy: int, radius: int) -> Inside:
    inside: Inside = (x - cx) ** 2 + (y - cy) ** 2 <= radius * radius
    return inside


def _polygon(x: Points, y: Points, corners: tuple[tuple[int, int], ...]) -> Inside:
    """Even-odd rule: a point is inside if a ray to the right crosses an odd number of edges."""
    inside: Inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.bool_)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 == y1:
            continue
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        spans = (y >= y0) & (y < y1)
        inside ^= spans & ((x - x0) * (y1 - y0) < (y - y0) * (x1 - x0))
    return inside


def _circle(x: Points, y: Points) -> Inside:
    return _disc(x, y, 0, 0, 990)


def _square(x: Points, y: Points) -> Inside:
    return (abs(x) <= 900) & (abs(y) <= 900)


def _triangle(x: Points, y: Points) -> Inside:
    return _polygon(x, y, ((0, -930), (1000, 900), (-1000, 900)))


def _star(x: Points, y: Points) -> Inside:
    corners = (
        *((0, -1000), (247, -285), (1000, -276), (400, 175), (618, 880)),
        *((0, 460), (-618, 880), (-400, 175), (-1000, -276), (-247, -285)),
    )
    return _polygon(x, y, corners)


def _heart(x: Points, y: Points) -> Inside:
    # A square on its corner and two discs on its upper sides.
    body = abs(x) + abs(y - 60) <= 820
    return body | _disc(x, y, -410, -350, 580) | _disc(x, y, 410, -350, 580)


def _diamond(x: Points, y: Points) -> Inside:
    return 5 * abs(x) + 4 * abs(y) <= 4000


def _hexagon(x: Points, y: Points) -> Inside:
    return _polygon(
        x, y, ((-520, -820), (520, -820), (1000, 0), (520, 820), (-520, 820), (-1000, 0))
    )


def _cross(x: Points, y: Points) -> Inside:
    return ((abs(x) <= 310) & (abs(y) <= 960)) | ((abs(y) <= 310) & (abs(x) <= 960))


def _ring(x: Points, y: Points) -> Inside:
    return _disc(x, y, 0, 0, 1000) & ~_disc(x, y, 0, 0, 520)


def _crescent(x: Points, y: Points) -> Inside:
    return _disc(x, y, 110, 0, 1000) & ~_disc(x, y, 620, 0, 830)


def _arrow(x: Points, y: Points) -> Inside:
    corners = (
        *((-1000, -290), (60, -290), (60, -850), (1000, 0)),
        *((60, 850), (60, 290), (-1000, 290)),
    )
    return _polygon(x, y, corners)


def _rectangle(x: Points, y: Points) -> Inside:
    return (abs(x) <= 1000) & (abs(y) <= 520)


def _oval(x: Points, y: Points) -> Inside:
    inside: Inside = 10 * x * x + 3 * y * y <= 3 * U * U
    return inside


def _semicircle(x: Points, y: Points) -> Inside:
    return _disc(x, y, 0, 500, 1000) & (y <= 500)


def _hourglass(x: Points, y: Points) -> Inside:
    return (abs(y) <= 960) & (6 * abs(x) <= 5 * abs(y) + 600)


OUTLINES: Final[dict[str, Callable[[Points, Points], Inside]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "diamond": _diamond,
    "hexagon": _hexagon,
    "cross": _cross,
    "ring": _ring,
    "crescent": _crescent,
    "arrow": _arrow,
    "rectangle": _rectangle,
    "oval": _oval,
    "semicircle": _semicircle,
    "hourglass": _hourglass,
}


def _striped(x: Points, y: Points) -> Inside:
    # Diagonal stripes, placed so that the middle of the box keeps the object's own colour.
    return (x + y + _TEXTURE_PERIOD // 2 + _STRIPE // 2) % _TEXTURE_PERIOD < _STRIPE


def _dotted(x: Points, y: Points) -> Inside:
    dx, dy = x % _DOT_PITCH - _DOT_PITCH // 2, y % _DOT_PITCH - _DOT_PITCH // 2
    inside: Inside = dx * dx + dy * dy <= _DOT_RADIUS * _DOT_RADIUS
    return inside


ACCENTS: Final = {"striped": _striped, "dotted": _dotted}


def _samples(size: int, extent: int, half: int) -> Points:
    """Shape coordinates of the sample points along one axis of a box `extent`/64 of `size` wide.

    `half` is 1 where the box starts half a pixel into its first pixel.
    """
    pixels = -(-(2 * extent * size + half * GRID) // (2 * GRID))
    steps = np.arange(pixels * SAMPLES, dtype=np.int64)
    numerator = (2 * steps + 1 - SAMPLES * half) * GRID
    denominator = 2 * SAMPLES * extent * size
    points: Points = (2 * numerator * U - denominator * U) // denominator
    return points


_masks = ArrayCache(CACHE_BYTES)


def mask(
    name: str, texture: str, size: int, extent: int, half_x: int, half_y: int
) -> tuple[Mask, Mask]:
    """Coverage (0..256) of a shape, or of its accent where textured, and 256 minus it.

    Args:
        name: one of SHAPES.
        texture: "plain" for the whole shape, "striped" or "dotted" for what the accent colours.
        size: the image's side in pixels.
        extent: the side of the shape's box in 64ths of the image's side.
        half_x, half_y: 1 where the box starts half a pixel into its first pixel, else 0.
    """
    key = (name, texture, size, extent, half_x, half_y)
    entry = _masks.get(key)
    if entry is None:
        x = _samples(size, extent, half_x)[None, :]
        y = _samples(size, extent, half_y)[:, None]
        inside = OUTLINES[name](x, y) & (abs(x) <= U) & (abs(y) <= U)
        if texture != "plain":
            inside = inside & ACCENTS[texture](x, y)
        height, width = inside.shape[0] // SAMPLES, inside.shape[1] // SAMPLES
        counts = inside.reshape(height, SAMPLES, width, SAMPLES).sum(axis=(1, 3))
        coverage = (counts * (256 // SAMPLES**2)).astype(np.uint16)[..., None]
        entry = _masks.put(key, coverage, (256 - coverage).astype(np.uint16))
    return entry[0], entry[1]


@cache
def ink_rows(name: str) -> tuple[int, int]:
    """First and last-plus-one row that a shape's outline reaches, in 128ths of its box."""
    coverage = mask(name, "plain", 2 * GRID, GRID, 0, 0)[0]
    rows = np.flatnonzero(coverage.max(axis=(1, 2)) >= 128)
    return int(rows[0]), int(rows[-1]) + 1
