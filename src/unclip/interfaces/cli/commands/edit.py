"""`unclip edit`: images changed towards a text (section 3.3)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

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
class Edit(InversionOptions):
    """Change images by the difference of two texts, keeping the rest; inverts first.

    `--output` may end in .gif or .apng too: the frames as a moving picture.
    """

    edits: ClassVar[bool] = True
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures of any kind and size, or one file that `unclip invert` wrote."""
    to: str
    """What the image should become."""
    from_: Annotated[str, tyro.conf.arg(name="from")] = ""
    """What it is now, or "a photo"; the empty text if left out."""
    theta: float = 0.4
    """How far, 0 to 1; the paper takes 0.25 to 0.5."""
    frames: int = 1
    """Images of each, with θ from 0 to --theta; one has --theta itself."""
    invert: bool = True
    """Start from the image's own noise, found by DDIM inversion; --no-invert: from fresh noise."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip edit` say, and give the exit code."""
    options = parse(Edit, "edit", arguments)
    started = time.perf_counter()
    from unclip.pipeline.inputs import check_count, check_prompts
    from unclip.pipeline.latent_space import check_thetas

    provenance = options.check(animated=True)
    count = check_count(options.frames, max(1, len(options.images)))
    check_prompts(options.to)
    check_thetas(options.theta)
    images = read(options.images)
    pipe = options.open()
    pipe.text_direction(options.to, options.from_)  # refused before the inversion, not after it
    images = options.start(pipe, images)
    thetas = (
        [options.theta * i / (count - 1) for i in range(count)] if count > 1 else [options.theta]
    )
    with call_arguments(options, pipe, images, len(images) * count) as arguments_:
        made = pipe.edit(images, options.to, options.from_, thetas, **arguments_)
    rows = [made.images[i : i + count] for i in range(0, len(made.images), count)]
    names = [path.name for path in options.images]
    labels = [f"θ = {theta:.2f}" for theta in thetas]
    write(
        rows,
        names,
        labels,
        options,
        ["edit", *arguments],
        pipe,
        started,
        provenance,
        made_from=pictures(options.images),
    )
    return 0
