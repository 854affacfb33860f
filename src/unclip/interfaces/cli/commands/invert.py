"""`unclip invert`: an image to its latents, and how well they lead back to it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from unclip.interfaces.cli.manipulations import inverted, open_images
from unclip.interfaces.cli.marking import MarkingOptions
from unclip.interfaces.cli.numbers import BatchSize, Steps
from unclip.interfaces.cli.options import ModelOptions, parse
from unclip.interfaces.cli.outputs import check_file, write_file


@dataclass(frozen=True, kw_only=True)
class Invert(ModelOptions, MarkingOptions):
    """Find the latents (z_i, x_T) that deterministic decoding turns into an image."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures of any kind and size; their central squares are inverted."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("latents.safetensors")
    """A .safetensors file."""
    steps: Steps = 100
    """Of DDIM; more lead back more exactly."""
    batch_size: BatchSize | None = None
    """Images computed at once; if left out, 16 on a GPU and 1 on a CPU."""
    sheet: Path | None = None
    """Write a labelled sheet of the images and their reconstructions, a .png file."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip invert` say, and give the exit code."""
    options = parse(Invert, "invert", arguments)
    started = time.perf_counter()
    from unclip.pipeline.requests import convert

    if not options.images:
        raise ValueError("there is no image: give the one to invert")
    check_file(options.output, ".safetensors")
    if options.sheet is not None:
        check_file(options.sheet, ".png")
    provenance = options.provenance()
    images = open_images(options.images)
    pipe = options.open()
    latents = inverted(pipe, images, options.steps, options.batch_size)
    found = pipe.psnr(images, latents)
    where = write_file(options.output, latents.save)
    for path, decibels in zip(options.images, found, strict=True):
        print(f"{path}: the reconstruction has a PSNR of {decibels:.1f} dB")
    if options.sheet:
        from unclip.outputs.images import labelled_sheet

        size = pipe.decoder.size
        made = pipe.reconstruct(latents, size=size, batch_size=options.batch_size).images
        rows = [list(pair) for pair in zip(convert(pipe.squares(images), "pil"), made, strict=True)]
        labels = [f"{p.name}, {db:.1f} dB" for p, db in zip(options.images, found, strict=True)]
        columns = ["image", "reconstruction"]
        drawn = labelled_sheet(rows, labels, columns)
        ours = [box for _, box in drawn.boxes if box is not None]
        info = {"command": ["invert", *arguments]}
        save = partial(provenance.save_png, drawn.image, info=info, only=ours)
        where += f", {write_file(options.sheet, save)}"
    size, took = pipe.decoder.size, time.perf_counter() - started
    print(f"latents of {len(images)} × {size}×{size} pixels in {took:.1f} s: {where}")
    return 0
