"""`unclip decode`: images for embeddings that somebody comes with."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unclip.interfaces.cli.manipulations import ImageOptions, call_arguments, write
from unclip.interfaces.cli.options import parse


@dataclass(frozen=True, kw_only=True)
class Decode(ImageOptions):
    """Make images for CLIP embeddings."""

    embeddings: tyro.conf.Positional[Path]
    """A .npy or .safetensors file of embeddings (N, D), such as `unclip embed` writes."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """Images for each."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip decode` say, and give the exit code."""
    options = parse(Decode, "decode", arguments)
    started = time.perf_counter()
    from unclip.outputs.latents import read_embeddings
    from unclip.pipeline.inputs import check_count

    provenance = options.check()
    check_count(options.n, 1)
    pipe = options.open()
    z_i = read_embeddings(options.embeddings, pipe.clip.width, pipe.clip.print)
    check_count(options.n, len(z_i))
    with call_arguments(options, pipe, None, len(z_i) * options.n) as arguments_:
        made = pipe.decode_embeddings(z_i, options.n, **arguments_)
    rows = [made.images[i : i + options.n] for i in range(0, len(made.images), options.n)]
    labels = [f"seed {seed}" for seed in made.seeds[: options.n]]
    numbers = [f"row {i}" for i in range(len(rows))]
    write(rows, numbers, labels, options, ["decode", *arguments], pipe, started, provenance)
    return 0
