"""What data holds, in figures: sizes of images, lengths and words of captions, what comes twice."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt

from unclip.checks import many, printable
from unclip.data.batches import Order
from unclip.data.pictures import PictureSource
from unclip.data.sources import Source, Stream, length, read
from unclip.words import words_in

READ = 1_000_000
"""Captions that are looked at."""
_EDGES = (16, 32, 64, 128, 256, 512, 1024, 2048)  # pixels
_BAR = 30  # characters
_SHOWN = 60
_SMALL = {
    *("a", "an", "and", "at", "by", "for", "from"),
    *("in", "is", "of", "on", "or", "the", "to", "with"),
}


def sizes(source: Source | Stream) -> list[str]:
    """The distribution of the shorter sides, and of shapes; nothing where images are drawn."""
    if not isinstance(source, PictureSource):
        return []
    sides = source.pictures.sides()
    shorter, longer = sides[:, 0], sides[:, 1]
    low, middle, high = (int(side) for side in np.percentile(shorter, (0, 50, 100)))
    lines = [f"sizes: shorter side {middle} px in the middle, {low} to {high}"]
    if low < high:
        lines += _histogram(shorter)
    oblong = int((longer > 1.05 * shorter).sum())
    if oblong:
        ratio = float(np.median(longer / shorter))
        lines.append(
            f"  {oblong:,} of {many(len(sides), 'images')} are oblong ({ratio:.2f}:1 in the middle "
            "of all); a square is cut out of them"
        )
    return lines


def _histogram(sides: npt.NDArray[np.int32]) -> list[str]:
    counts = np.bincount(np.searchsorted(_EDGES, sides, "right"), minlength=len(_EDGES) + 1)
    names = [f"< {_EDGES[0]}", *(f"{a}–{b - 1}" for a, b in pairwise(_EDGES))]
    names.append(f"≥ {_EDGES[-1]}")
    most = counts.max()
    return [
        f"  {name:>9} px  {'#' * -(-int(count) * _BAR // int(most)):<{_BAR}} {count:,}"
        for name, count in zip(names, counts, strict=True)
        if count
    ]


def captions(source: Source | Stream) -> list[str]:
    """Lengths, distinct ones, words, and what is said of many images."""
    found = list(islice(source.captions(), 1000 if source.endless else READ))
    if not found:
        return []
    lengths = [len(caption.split()) for caption in found]
    middle, long, longest = np.percentile(lengths, (50, 95, 100))
    distinct = Counter(found)
    words = Counter(word for caption in found for word in words_in(caption))
    common = [(word, count) for word, count in words.most_common(200) if word not in _SMALL]
    first = "first " * (source.endless or len(found) == READ)
    lines = [
        f"captions: the {first}{len(found):,} have {middle:.0f} words in the middle, "
        f"95 % at most {long:.0f}, the longest {longest:.0f}",
        f"  {len(distinct):,} are different; they use {many(len(words), 'words')}, "
        f"{sum(count == 1 for count in words.values()):,} of them once",
        "  most often: " + ", ".join(f"{word} {count:,}" for word, count in common[:16]),
    ]
    again = [(text, count) for text, count in distinct.most_common(3) if count > 1]
    if again:
        total = sum(count - 1 for count in distinct.values())
        shown = "; ".join(f"{_brief(text)!r} {count:,} times" for text, count in again)
        lines.append(f"  {total:,} repeat another image's, most often {shown}")
    return lines


def duplicates(source: Source | Stream) -> list[str]:
    """Images that are the same to the last byte, by reading all files."""
    if not isinstance(source, PictureSource):
        return []
    seen: dict[bytes, int] = {}
    again: list[str] = []
    pictures = source.pictures
    for number in map(int, source.numbers):
        try:
            image = pictures.image(number)
            if not isinstance(image, bytes):
                with open(image, "rb") as file:
                    image = file.read()
        except (OSError, ValueError):
            continue
        first = seen.setdefault(hashlib.blake2b(image, digest_size=16).digest(), number)
        if first != number:
            again.append(f"{pictures.name(number)} = {pictures.name(first)}")
    if not again:
        return ["duplicates: no two files are the same"]
    more = ", …" if len(again) > 3 else ""
    return [
        f"duplicates: {many(len(again), 'files')} ({', '.join(map(printable, again[:3]))}{more})"
    ]


def examples(
    source: Source | Stream, count: int, seed: int
) -> Iterator[tuple[npt.NDArray[np.uint8], str]]:
    """Pixels (H, W, 3) and captions of samples drawn by the seed, at most as many as there are."""
    order = Order.of(source, seed)
    first = 0 if isinstance(source, Stream) or not source.endless else seed * count
    positions: Sequence[int] = range(first, first + min(count, length(source)))
    for sample in read(source, map(order, positions)):
        yield sample["image"].permute(1, 2, 0).numpy(), sample["caption"]


def _brief(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
