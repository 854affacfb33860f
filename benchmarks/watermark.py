"""What the mark in images survives, how rarely it is found where it is not, and what it costs.

    python benchmarks/watermark.py survives [--data DATA] [--size 256] [-n 300]
                                            [--changes NAME…]
    python benchmarks/watermark.py ours [-n 20]
    python benchmarks/watermark.py unmarked [--data DATA] [--size 128] [-n 100000] [--first 0]
                                            [--workers 2]

`survives` marks images of any data, or pieces of photographs (`--data photographs`, which needs
scikit-learn), and changes them in every way of `CHANGES`; `ours` has the bundled model make,
enlarge, edit and repaint images; `unmarked` searches `-n` images without a mark: an eighth as many
scenes, each in all eight ways in which a square can be turned and mirrored.
One thread, `--workers` processes; docs/provenance.md has the tables.
"""

import argparse
import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from unclip.data.registry import open_source
from unclip.outputs.provenance import Provenance, number_of
from unclip.outputs.watermark import NUMBERED, Found, find, mark

Change = Callable[[Image.Image], Image.Image]
PART = 50
"""Scenes that a process searches at a time."""


def encoded(kind: str, quality: int) -> Change:
    """Written and read again with losses."""

    def change(image: Image.Image) -> Image.Image:
        data = io.BytesIO()
        image.save(data, kind, quality=quality)
        return Image.open(io.BytesIO(data.getvalue())).convert("RGB")

    return change


def scaled(factor: float) -> Change:
    """Another size."""
    return lambda image: image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC
    )


def cropped(share: float) -> Change:
    """That share of width and height taken away, from the left and the top mostly."""

    def change(image: Image.Image) -> Image.Image:
        width, height = (round((1 - share) * side) for side in image.size)
        x, y = (image.width - width) * 7 // 10, (image.height - height) * 9 // 10
        return image.crop((x, y, x + width, y + height))

    return change


def noisy(deviation: float) -> Change:
    """Noise of so many levels."""

    def change(image: Image.Image) -> Image.Image:
        noise = np.random.default_rng(0).normal(0, deviation, (image.height, image.width, 3))
        return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))

    return change


def blanked(image: Image.Image) -> Image.Image:
    """A fifth of it painted over."""
    image = image.copy()
    side = round(0.2**0.5 * image.width)
    image.paste((128, 128, 128), (image.width // 4, 10, image.width // 4 + side, 10 + side))
    return image


CHANGES: dict[str, Change] = {
    "nothing": lambda image: image,
    "JPEG 70": encoded("JPEG", 70),
    "JPEG 50": encoded("JPEG", 50),
    "JPEG 30": encoded("JPEG", 30),
    "WebP 80": encoded("WEBP", 80),
    "256 colours (GIF)": lambda image: image.quantize(256).convert("RGB"),
    "× 0.5": scaled(0.5),
    "× 0.75": scaled(0.75),
    "× 2": scaled(2),
    "× 0.5, JPEG 70": lambda image: encoded("JPEG", 70)(scaled(0.5)(image)),
    "× 0.9, a size that is not tried": scaled(0.9),
    "crop 10 %": cropped(0.1),
    "crop 30 %": cropped(0.3),
    "crop 10 %, JPEG 50": lambda image: encoded("JPEG", 50)(cropped(0.1)(image)),
    "a fifth painted over": blanked,
    "blur, radius 1": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "noise of 5 levels": noisy(5),
    "contrast × 1.5": lambda image: ImageEnhance.Contrast(image).enhance(1.5),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by 1°": lambda image: image.rotate(1, Image.Resampling.BICUBIC),
}


def images(data: str, size: int, count: int, first: int = 0) -> Iterator[Image.Image]:
    """Images of any data, cut square and made of that size, from number `first` on."""
    if data == "photographs":
        yield from photographs(size, count)
        return
    source = open_source(data, size=size, seed=0, split="all")
    for index in range(first, first + count):
        yield Image.fromarray(source[index]["image"].permute(1, 2, 0).numpy())


def photographs(size: int, count: int) -> Iterator[Image.Image]:
    """Squares, at random, of the two photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    whole = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    random = np.random.default_rng(0)
    for index in range(count):
        one = whole[index % len(whole)]
        side = int(random.integers(size, min(one.size) + 1))
        x, y = (int(random.integers(0, length - side + 1)) for length in one.size)
        square = one.crop((x, y, x + side, y + side))
        yield square.resize((size, size), Image.Resampling.LANCZOS)


def survives(data: str, size: int, count: int, names: Sequence[str]) -> None:
    """Print what is found of images that were marked and changed in the ways of these names."""
    originals = list(images(data, size, count))
    numbers = [number_of(one) if size >= NUMBERED else 0 for one in originals]
    began = time.process_time()
    marked = [mark(one, number) for one, number in zip(originals, numbers, strict=True)]
    took = (time.process_time() - began) / count
    losses = [psnr(one, other) for one, other in zip(originals, marked, strict=True)]
    print(f"{data}, {count} images of {size} px: PSNR {min(losses):.1f} dB at least,")
    print(f"{np.mean(losses):.1f} on average; marking took {1000 * took:.1f} ms an image\n")
    print("| change | found | number right | largest p |\n|---|---|---|---|")
    for name in names:
        found = [find(CHANGES[name](one)) for one in marked]
        row(name, found, numbers if size >= NUMBERED else [])


def row(name: str, found: Sequence[Found], numbers: Sequence[int]) -> None:
    """Print a row of a table."""
    right = [one.number == number for one, number in zip(found, numbers, strict=False)]
    shares = [percent([one.marked for one in found]), percent(right) if right else "–"]
    print(f"| {name} | {' | '.join(shares)} | {max(one.p for one in found):.0e} |", flush=True)


def percent(values: Sequence[bool]) -> str:
    """How many of a hundred."""
    return f"{100 * np.mean(values):.4g} %"


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Between two images, in decibels."""
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    return float(10 * np.log10(255**2 / max(float(np.mean(difference**2)), 1e-9)))


def ours(count: int) -> None:
    """Print what is left of a mark in what this program itself makes of marked images."""
    from unclip import Pipeline

    pipe = Pipeline.from_pretrained(dtype="fp32", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    began = time.process_time()
    made = pipe("a red star on a blue background", count, seed=0).images
    took = time.process_time() - began
    began = time.process_time()
    marked = [Provenance().marked(one)[0] for one in made]
    marking = time.process_time() - began
    print(
        f"making took {took / count:.2f} s an image, marking {100 * marking / took:.2f} % of it\n"
    )
    print("| made of marked images, itself unmarked | found | number right | largest p |")
    print("|---|---|---|---|")
    ways: dict[str, Change] = {
        "upscale": lambda image: pipe.upscale(image).images[0],
        "edit": lambda image: pipe.edit(image, "a red star at night", "a red star").images[0],
        "vary": lambda image: pipe.vary(image).images[0],
        "inpaint, a quarter of it": lambda image: pipe.inpaint(
            image, "a white ring", boxes=[(32, 32, 96, 96)]
        ).images[0],
    }
    for name, change in ways.items():
        row(name, [find(change(one)) for one in marked], [])


def turned(image: Image.Image) -> Iterator[Image.Image]:
    """The image in all eight ways in which a square can lie: to the pattern these are eight images,
    as none of its blocks looks alike in two of them."""
    for one in (image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        yield one
        for how in (
            Image.Transpose.ROTATE_90,
            Image.Transpose.ROTATE_180,
            Image.Transpose.ROTATE_270,
        ):
            yield one.transpose(how)


def searched(data: str, size: int, first: int, count: int) -> list[float]:
    """p-values of `count` images without a mark and of all their turns."""
    return [find(way).p for image in images(data, size, count, first) for way in turned(image)]


def unmarked(data: str, size: int, count: int, first: int, workers: int) -> None:
    """Print how many images without a mark are taken for marked ones, and their smallest p."""
    began, ps = time.monotonic(), []
    parts = [(data, size, number, PART) for number in range(first, first + -(-count // 8), PART)]
    with ProcessPoolExecutor(workers) as pool:
        for found in pool.map(searched, *zip(*parts, strict=True)):
            ps += found
            seconds, wrong = time.monotonic() - began, sum(p <= 1e-6 for p in ps)
            print(f"{len(ps):,} images ({len(ps) // 8:,} of {data}, turned), {size} px, "
                  f"{seconds:.0f} s: {wrong} found; smallest p {min(ps):.1g}, "
                  f"{np.mean(np.array(ps) < 1):.2%} below 1", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["survives", "ours", "unmarked"])
    parser.add_argument("--data", default="emoji:shapes")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first scene")
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if options.what == "ours":
        ours(options.n)
    elif options.what == "survives":
        survives(options.data, options.size, options.n, options.changes)
    else:
        unmarked(options.data, options.size, options.n, options.first, options.workers)


if __name__ == "__main__":
    main()
