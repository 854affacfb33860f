"""How long features take, and metrics of them.

    python benchmarks/features.py [-n 1000] [--size 128] [--extractor efficientnet-lite0]

Images of the built-in world are written as PNG files and read back by one process and by two, the
extractor opened, files decoded, everything included. Then FID with its interval, its extrapolation,
KID and precision to coverage of random features as wide as Inception's, of more images than
dimensions. Seconds as they are on this machine now, other programs included; appends one JSON
object to benchmarks/results/results.jsonl.
"""

import argparse
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


def timed(name: str, work: Callable[[], Any]) -> float:
    """Seconds, which are printed."""
    began = time.perf_counter()
    work()
    took = time.perf_counter() - began
    print(f"{name}: {took:.1f} s", flush=True)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-n", type=int, default=1000, help="images")
    parser.add_argument("--size", type=int, default=128, help="pixels of a side")
    parser.add_argument("--extractor", default="efficientnet-lite0")
    options = parser.parse_args()
    seconds: dict[str, float] = {}
    if options.extractor == "efficientnet-lite0" and not cached().is_dir():
        convert(published_file(), cached())
    with tempfile.TemporaryDirectory() as folder:
        world = World(replace(WORLD, size=options.size))
        files = [Path(folder) / f"{number:05}.png" for number in range(options.n)]
        for number, file in enumerate(files):
            Image.fromarray(world[number][0]).save(file)
        for count in (1, 2):
            name = (
                f"{options.n} images of {options.size} px, {options.extractor}, {count} processes"
            )
            seconds[name] = timed(
                name, lambda k=count: features_of_files(options.extractor, files, k, "cpu")
            )
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(IMAGES, WIDTH, generator=generator) for _ in range(2))
    for what, work in (("fid", fid), ("extrapolated", extrapolated), ("kid", kid), ("prdc", prdc)):
        name = f"{what}, {IMAGES:,} images on either side, {WIDTH:,} dimensions"
        seconds[name] = timed(name, lambda f=work: f(a, b))
    record(torch.device("cpu"), benchmark="features", seconds=seconds)


if __name__ == "__main__":
    main()
