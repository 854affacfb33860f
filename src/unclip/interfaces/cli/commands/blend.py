"""`unclip blend`: images between images (section 3.2)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from unclip.interfaces.cli.manipulations import (
    InversionOptions,
    call_arguments,
    pictures,
    read,
    write,
)
from unclip.interfaces.cli.options import parse


@dataclass(frozen=True, kw_only=True)
class Blend(InversionOptions):
    """Make the images between two or more, or one of their weighted mean.

    `--output` may end in .gif or .apng too: the frames as a moving picture.
    """

    images: tyro.conf.Positional[tuple[Path, ...]]
    """At least two pictures of any kind and size, or one file of latents of them."""
    frames: int = 7
    """Images in all, from the first to the last."""
    weights: tuple[float, ...] | None = None
    """One for each image: make a single image of their weighted mean."""
    noise: Literal["slerp", "fixed"] = "slerp"
    """Between inverted images: their noise too by slerp, or the first one's for all."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip blend` say, and give the exit code."""
    options = parse(Blend, "blend", arguments)
    started = time.perf_counter()
    from unclip.pipeline.inputs import check_count
    from unclip.pipeline.latent_space import check_frames, check_weights

    provenance = options.check(animated=True)
    count = 1 if options.weights is not None else check_count(options.frames, 1)
    images = read(options.images)
    if len(images) < 2:
        raise ValueError("there is one image: give at least 2 to blend")
    if options.weights is None:
        check_frames(count, len(images))
    else:
        check_weights(options.weights, len(images))
    pipe = options.open()
    images = options.start(pipe, images)
    with call_arguments(options, pipe, images, count) as arguments_:
        made = pipe.blend(
            images, options.frames, weights=options.weights, noise=options.noise, **arguments_
        )
    legs = max(count - 1, 1)
    labels = [f"θ = {(len(images) - 1) * i / legs:.2f}" for i in range(count)]
    labels = labels if options.weights is None else ["weighted mean"]
    write(
        [made.images],
        [],
        labels,
        options,
        ["blend", *arguments],
        pipe,
        started,
        provenance,
        made_from=pictures(options.images),
    )
    return 0
