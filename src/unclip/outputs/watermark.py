"""A mark that says "generated", spread over the luminance of an image, and a 32-bit number in it.

Spread spectrum in the discrete cosine transform of blocks of 8 × 8 pixels (Cox et al. 1997,
Hernández et al. 2000): of each block of a tile of 128 × 128 pixels, three of the eight coefficients
`_FREQUENCIES` get a sign. The tile is repeated over the image. An image is searched by a circular
correlation of what it comes to in one tile with that pattern (FFT), whatever part of an image it
is; several sizes of it are tried.

Half of the signs are fixed: they are what is looked for. The others say the number, eight bits at
a time: a symbol is one of 128 nearly orthogonal sequences of 96 signs (of a Hadamard matrix) or its
negative. Images below 256 pixels say zero, so that all signs are looked for.

**False positives.** The signs were drawn once, at random. For an image that knows nothing of them
the correlation c = Σ s_k x_k is a sum of random signs, and Hoeffding's inequality says
P(c ≥ z ‖x‖) ≤ exp(-z² / 2) for whatever image; times the number of shifts, sizes and patterns that
were tried, that is the p-value.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from unclip.outputs.images import Box

SMALLEST = 128
"""Pixels of the shorter side: smaller images carry no mark."""
NUMBERED = 256
"""Pixels of the shorter side from which on the mark says a number."""
BITS = 32
LIMIT = 1e-6
"""The largest p-value of an image that counts as marked."""
_TILE, _BLOCK = 128, 8
_FREQUENCIES = ((0, 2), (2, 0), (1, 1), (1, 2), (2, 1), (2, 2), (0, 3), (3, 0))
# Half a step of JPEG at quality 50 (the standard, table K.1): what is less is rounded away where
# the image is flat.
_STEPS = (10, 14, 12, 14, 13, 16, 16, 14)
_EACH = 3  # coefficients of a block
_SYMBOLS, _LENGTH = 4, 96  # signs of a symbol
_SCALES = (1.0, 2.0, 0.5, 0.25, 4 / 3, 0.75, 1.5, 2 / 3)
_BASE = 0.52  # of _STEPS, where the image is flat
_GAIN, _BUSIEST = (
    0.15,
    15.0,
)  # more of it a level of standard deviation around, up to so many levels
_MOST = 255**2 / 10**4.13  # mean square of what is added: 41.3 dB
_REACH = 3  # pixels that a mean reaches to each side
_EVEN, _LEAN, _RANGE = 1.05, 0.8, (0.3, 1.8)  # of a sign, by how much the image has of it
_ROOM = 1.0  # levels that white and black give way, at most
_NOISE = 3.0  # levels: what rounding and compression leave in flat images
_LARGEST = 2**24  # pixels at which an image is searched
_CERTAIN = 1e-12  # p-value after which no other size is tried
_VOTES = 1.0  # of one coefficient, in medians of all
_MISREAD = 1e-3  # of a number that counts as sure
_CANDIDATES = 8  # shifts of which the p-value is computed
_TRIALS = _TILE**2 * len(_SCALES) * 2
_SEED = 20220413  # any; another one is another mark, which finds none of these
Field = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Found:
    """What the search for a mark came to."""

    p: float
    """At most how likely an image without a mark has as much of one; 1 if nothing speaks for it."""
    number: int | None = None
    """What the mark says, where the image is large enough and it can be read."""
    sure: bool = False
    """Whether the number is one in a thousand times misread at most."""
    scale: float = 1.0
    """At how many times the image's size it was found: 2 is an image that was halved."""

    @property
    def marked(self) -> bool:
        """Whether the image counts as marked."""
        return self.p <= LIMIT


@dataclass(frozen=True)
class _Pattern:
    """The signs, as pixels of a tile."""

    places: np.ndarray[Any, Any]  # (768, 3): block row, block column, frequency
    signs: np.ndarray[Any, Any]  # (768,) ±1; the first half fixed, then the symbols'

    def tile(self, signs: np.ndarray[Any, Any], weights: Any = 1.0) -> Field:
        """Pixels (128, 128) of chips with these signs, the first of `places`."""
        blocks = _TILE // _BLOCK
        coefficients = np.zeros((blocks, blocks, len(_FREQUENCIES)), np.float32)
        rows, columns, which = self.places[: len(signs)].T
        coefficients[rows, columns, which] = signs
        coefficients *= weights
        pixels = np.einsum("rcf,fyx->rycx", coefficients, _basis())
        return np.asarray(pixels.reshape(_TILE, _TILE), np.float32)


@lru_cache(1)
def _basis() -> Field:
    """The cosines (8 frequencies, 8, 8) of a block, orthonormal."""
    x = np.arange(_BLOCK)
    rows = [
        np.cos(np.pi * (2 * x + 1) * u / 16) / 2 / (np.sqrt(2) if u == 0 else 1) for u in range(8)
    ]
    return np.stack([np.outer(rows[v], rows[u]) for v, u in _FREQUENCIES]).astype(np.float32)


@lru_cache(1)
def _pattern() -> _Pattern:
    random = np.random.Generator(np.random.PCG64(_SEED))  # whose stream numpy keeps
    blocks = _TILE // _BLOCK
    places = [
        (row, column, which)
        for row in range(blocks)
        for column in range(blocks)
        for which in np.argsort(random.random(len(_FREQUENCIES)))[:_EACH]
    ]
    order = np.argsort(random.random(len(places)))
    signs = np.where(random.random(len(places)) < 0.5, -1, 1)
    return _Pattern(np.array(places)[order], signs.astype(np.float32))


@lru_cache(1)
def _hadamard() -> Field:
    """128 sequences of 96 signs: Sylvester's matrix without its last columns."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < 128:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix[:, :_LENGTH].astype(np.float32)


def _signs(number: int) -> np.ndarray[Any, Any]:
    """The signs (768,) of the mark that says a number."""
    pattern = _pattern()
    signs = pattern.signs.copy()
    half = len(signs) // 2
    for i in range(_SYMBOLS):
        symbol = number >> 8 * i & 255
        part = slice(half + _LENGTH * i, half + _LENGTH * (i + 1))
        signs[part] *= _hadamard()[symbol >> 1] * (1 - 2 * (symbol & 1))
    return signs


# --- writing ------------------------------------------------------------------------------------


def strength(image: Image.Image) -> str:
    """What a mark of an image of this size can say: "number", "presence" or, if too small, ""."""
    side = min(image.size)
    return "number" if side >= NUMBERED else "presence" if side >= SMALLEST else ""


def mark(
    image: Image.Image,
    number: int = 0,
    kept: Image.Image | None = None,
    only: Sequence[Box] | None = None,
) -> Image.Image:
    """The image with a mark, of at least 41 dB of PSNR.

    Args:
        image: RGB or grey (L), the shorter side at least 128 pixels.
        number: 32 bits; zero where the image is smaller than 256 pixels.
        kept: an image of the same size: pixels that are the same in it are left as they are.
        only: parts of the image (left, top, right, bottom); pixels elsewhere are left as they are,
            and the decibels are those of the parts.

    Raises:
        ValueError: the image is too small, or the number does not fit.
    """
    if min(image.size) < SMALLEST:
        raise ValueError(f"an image of {image.size} pixels is too small for a mark")
    if not 0 <= number < 2**BITS or (number and strength(image) != "number"):
        raise ValueError(f"the mark of an image of {image.size} pixels cannot say {number}")
    pixels = np.asarray(image, np.float32)
    luminance = _luminance(image)
    height, width = pixels.shape[:2]
    repeats = (-(-height // _TILE), -(-width // _TILE))
    steps = np.array(_STEPS, np.float32) * _BASE
    pattern = _pattern().tile(_informed(luminance, _signs(number)), steps)
    added: Field = np.tile(pattern, repeats)[:height, :width]
    busy = np.minimum(_deviation(luminance)[1], _BUSIEST)
    inside: Any = ... if only is None else _inside(only, luminance.shape)
    gain = _gain(added[inside], busy[inside])
    added = np.asarray(added * (1 + gain * busy), np.float32)
    if only is not None:
        added[~inside] = 0
    if kept is not None:
        same = np.asarray(kept.convert(image.mode)) == np.asarray(image)
        added[same if same.ndim == 2 else same.all(-1)] = 0
    added *= min(1.0, math.sqrt(_MOST / max(float(np.mean(added[inside] ** 2)), 1e-9)))
    # Where white and black are pure, there is room for one direction only.
    room = np.minimum(np.abs(added), _ROOM)
    if pixels.ndim == 3:
        added, room = added[..., None], room[..., None]
    marked = np.clip(pixels, room, 255 - room) + added
    return Image.fromarray(np.clip(np.rint(marked), 0, 255).astype(np.uint8))


def _inside(parts: Sequence[Box], shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which pixels (H, W) are in one of the parts."""
    inside = np.zeros(shape, np.bool_)
    for left, top, right, bottom in parts:
        inside[top:bottom, left:right] = True
    return inside


def _informed(luminance: Field, signs: Field) -> Field:
    """The signs, larger where the image itself has little of them, smaller where it has much:
    no coefficient counts more than the median one (`_limited`)."""
    chips = _chips(_folded(luminance), [0])[0] * signs
    limit = float(np.median(np.abs(chips))) + 1e-12
    return np.asarray(signs * np.clip(_EVEN - _LEAN * chips / limit, *_RANGE), np.float32)


def _gain(added: Field, busy: Field) -> float:
    """How much more a busy part gets, so that the whole stays within `_MOST`."""
    a, b = float(np.mean((added * busy) ** 2)), float(np.mean(added**2 * busy))
    spare = _MOST - float(np.mean(added**2))
    return float(np.clip((np.sqrt(max(b * b + a * spare, 0)) - b) / max(a, 1e-9), 0, _GAIN))


def _luminance(image: Image.Image) -> Field:
    return np.asarray(image.convert("L"), np.float32)


def _box(field: Field) -> Field:
    """Means over 7 × 7 pixels, of which those outside repeat the edge."""
    wide = 2 * _REACH + 1
    height, width = field.shape
    padded = np.pad(field, _REACH, "edge")
    rows = padded[:height].copy()
    for i in range(1, wide):
        rows += padded[i : i + height]
    sums = rows[:, :width].copy()
    for i in range(1, wide):
        sums += rows[:, i : i + width]
    return np.asarray(sums / wide**2, np.float32)


def _deviation(luminance: Field) -> tuple[Field, Field]:
    """Pixels less the mean around them, and the standard deviation of that around them."""
    detail = luminance - _box(luminance)
    return detail, np.sqrt(np.maximum(_box(detail**2), 0))


# --- searching ----------------------------------------------------------------------------------


def find(image: Image.Image, scales: Sequence[float] = _SCALES) -> Found:
    """Search for a mark, at several sizes of the image.

    Args:
        scales: by which the image's size is multiplied.
    """
    luminance = image.convert("L")
    best = Found(1.0)
    for scale in scales:
        if best.p < _CERTAIN:
            break
        size = round(image.width * scale), round(image.height * scale)
        if min(size) < 48 or size[0] * size[1] > _LARGEST:
            continue
        scaled = luminance if scale == 1 else luminance.resize(size, Image.Resampling.BICUBIC)
        found = _searched(_folded(np.asarray(scaled, np.float32)), scale)
        if found.p < best.p:
            best = found
    return best


def holds(marked: Image.Image) -> bool:
    """Whether an image that `mark` has made is found again: pure noise hides any mark."""
    tile = _folded(_luminance(marked))
    return min(float(_at(tile, signs, [0])[0][0]) for signs in _patterns()) <= LIMIT


def _folded(luminance: Field) -> Field:
    """The image in one tile (128, 128): detail, weighted by how much of a mark and how little else
    there is, summed over the tiles."""
    detail, deviation = _deviation(luminance)
    gain = 1 + _GAIN * np.minimum(deviation, _BUSIEST)
    weighted = detail * gain / (deviation**2 + _NOISE**2)
    height, width = weighted.shape
    padded = np.pad(weighted, ((0, -height % _TILE), (0, -width % _TILE)))
    tiles = padded.reshape(len(padded) // _TILE, _TILE, -1, _TILE)
    return np.asarray(tiles.sum((0, 2)), np.float32)


def _searched(tile: Field, scale: float) -> Found:
    """The best of all shifts of a tile, for a mark with a number and for one without."""
    spectrum = np.fft.rfft2(tile)
    best = Found(1.0)
    for signs, template in zip(_patterns(), _templates(), strict=True):
        correlation = np.fft.irfft2(spectrum * template, s=tile.shape)
        lags = np.argpartition(correlation, -_CANDIDATES, axis=None)[-_CANDIDATES:]
        p, chips = _at(tile, signs, lags.tolist())
        which = int(np.argmin(p))
        if p[which] < best.p:
            with_number = len(signs) < chips.shape[1]
            number, sure = _number(chips[which]) if with_number else (None, False)
            best = Found(float(p[which]), number, sure, scale)
    return best


@lru_cache(1)
def _patterns() -> tuple[Field, Field]:
    """The signs that are looked for: those of all marks, and all of one without a number."""
    signs = _pattern().signs
    return signs[: len(signs) // 2], _signs(0)


@lru_cache(1)
def _templates() -> tuple[np.ndarray[Any, Any], ...]:
    """Their spectra, to correlate with."""
    return tuple(np.conj(np.fft.rfft2(_pattern().tile(signs))) for signs in _patterns())


def _at(tile: Field, signs: Field, lags: Sequence[int]) -> tuple[np.ndarray[Any, Any], Field]:
    """For each of K places at which the pattern may begin, row · 128 + column: the p-value (K,) of
    signs there, and all of the chips (K, 768)."""
    chips = _limited(_chips(tile, lags))
    tested = chips[:, : len(signs)]
    z = (tested @ signs).astype(np.float64) / np.maximum(np.linalg.norm(tested, axis=1), 1e-12)
    return np.where(z > 0, np.minimum(1.0, _TRIALS * np.exp(-(z**2) / 2)), 1.0), chips


def _chips(tile: Field, lags: Sequence[int]) -> Field:
    """The coefficients (K, 768) of a tile that begins at each of K places."""
    n = _TILE // _BLOCK
    twice = np.tile(tile, (2, 2))
    begun = [divmod(lag, _TILE) for lag in lags]
    parts = [twice[row : row + _TILE, column : column + _TILE] for row, column in begun]
    blocks = np.stack([part.reshape(n, _BLOCK, n, _BLOCK).swapaxes(1, 2) for part in parts])
    coefficients = blocks.reshape(len(lags), n, n, -1) @ _basis().reshape(len(_basis()), -1).T
    return np.asarray(coefficients.reshape(len(lags), -1)[:, _flat()], np.float32)


@lru_cache(1)
def _flat() -> np.ndarray[Any, Any]:
    """Where the chips (768,) are among all coefficients of a tile."""
    rows, columns, which = _pattern().places.T
    return np.asarray((rows * (_TILE // _BLOCK) + columns) * len(_FREQUENCIES) + which)


def _limited(chips: Field) -> Field:
    """The chips (K, 768), none of which outvotes many others."""
    half = chips.shape[1] // 2
    middle = np.partition(np.abs(chips), (half - 1, half), axis=1)[:, half - 1 : half + 1]
    limit = _VOTES * middle.mean(axis=1, keepdims=True)
    return np.asarray(np.clip(chips, -limit, limit), np.float32)


def _number(chips: Field) -> tuple[int, bool]:
    """What the second half of the chips says, of each symbol the likeliest, and whether that is
    sure: noise alone has as much of any symbol once in 1,000 times (Hoeffding again)."""
    half, number, sure = len(chips) // 2, 0, True
    said = chips * _pattern().signs
    for i in range(_SYMBOLS):
        part = said[half + _LENGTH * i : half + _LENGTH * (i + 1)]
        likely = _hadamard() @ part
        which = int(np.argmax(np.abs(likely)))
        number |= (which << 1 | int(likely[which] < 0)) << 8 * i
        z = float(abs(likely[which])) / max(float(np.linalg.norm(part)), 1e-12)
        sure = sure and 256 * float(np.exp(-(z**2) / 2)) <= _MISREAD
    return number, sure
