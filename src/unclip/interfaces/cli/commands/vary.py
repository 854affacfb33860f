"""`unclip vary`: variations of images (section 3.1)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

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
class Vary(InversionOptions):
    """Make variations of images: what CLIP sees in them stays, the rest is drawn anew."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures of any kind and size, or one file that `unclip invert` wrote."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """Variations of each."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip vary` say, and give the exit code."""
    options = parse(Vary, "vary", arguments)
    started = time.perf_counter()
    from unclip.pipeline.inputs import check_count

    provenance = options.check()
    check_count(options.n, max(1, len(options.images)))
    given = read(options.images)
    pipe = options.open()
    images = options.start(pipe, given)
    with call_arguments(options, pipe, images, len(images) * options.n) as arguments_:
        made = pipe.vary(images, options.n, **arguments_)
    rows = [made.images[i : i + options.n] for i in range(0, len(made.images), options.n)]
    names = [path.name for path in options.images]
    labels = [f"seed {seed}" for seed in made.seeds[: options.n]]
    origins = given if isinstance(given, list) else []
    write(
        rows,
        names,
        labels,
        options,
        ["vary", *arguments],
        pipe,
        started,
        provenance,
        origins,
        pictures(options.images),
    )
    return 0
