"""How long features take, and metrics of them.

    python benchmarks/features.py [-n 1000] [--size 128] [--only images]

Images of the built-in world are written as PNG files and read back by one process and by two, the
extractor opened, files decoded, everything included. Then FID with its interval, its extrapolation,
KID and precision to coverage of random features as wide as Inception's, of more images than
dimensions. Seconds on the clock, as they are on this machine now, and of computing, which other
programs change less; appends one JSON object to benchmarks/results/results.jsonl.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from common import record
from unclip.data.world.world import World
from unclip.evaluation.features.efficientnet import cached, convert, published_file
from unclip.evaluation.features.files import features_of_files
from unclip.evaluation.metrics.frechet import extrapolated, fid
from unclip.evaluation.metrics.mmd import kid
from unclip.evaluation.metrics.neighbours import prdc
from unclip.interfaces.cli.evaluations.shared import WORLD

WIDTH, IMAGES = 2048, 5000  # of features, as wide as Inception's


def timed(name: str, work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock, and seconds of computing by all processes; both are printed."""

    def computed() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    began, before = time.perf_counter(), computed()
    work()
    took, used = time.perf_counter() - began, computed() - before
    print(f"{name}: {took:.1f} s, of computing {used:.1f} s", flush=True)
    return took, used


Timed = dict[str, tuple[float, float]]


def of_images(extractor: str, n: int, size: int) -> Timed:
    """From PNG files to features, by one process and by two."""
    if extractor == "efficientnet-lite0" and not cached().is_dir():
        convert(published_file(), cached())
    found: Timed = {}
    with tempfile.TemporaryDirectory() as folder:
        world = World(replace(WORLD, size=size))
        files = [Path(folder) / f"{number:05}.png" for number in range(n)]
        for number, file in enumerate(files):
            Image.fromarray(world[number][0]).save(file)
        for count in (1, 2):
            name = f"{n} images of {size} px by {extractor}, processes: {count}"
            found[name] = timed(name, lambda k=count: features_of_files(extractor, files, k, "cpu"))
    return found


def of_metrics() -> Timed:
    """From features to numbers."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(IMAGES, WIDTH, generator=generator) for _ in range(2))
    found: Timed = {}
    for what, work in (("fid", fid), ("kid", kid), ("prdc", prdc), ("extrapolated", extrapolated)):
        name = f"{what}, {IMAGES:,} images on either side, {WIDTH:,} dimensions"
        found[name] = timed(name, lambda f=work: f(a, b))
    return found


def main() -> None:
    """Measure both, or one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-n", type=int, default=1000, help="images")
    parser.add_argument("--size", type=int, default=128, help="pixels of a side")
    parser.add_argument("--extractor", default="efficientnet-lite0")
    parser.add_argument("--only", choices=("images", "metrics"))
    options = parser.parse_args()
    seconds: Timed = {}
    if options.only != "metrics":
        seconds |= of_images(options.extractor, options.n, options.size)
    if options.only != "images":
        seconds |= of_metrics()
    record(torch.device("cpu"), benchmark="features", seconds=seconds)


if __name__ == "__main__":
    main()
