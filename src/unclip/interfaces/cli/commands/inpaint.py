"""`unclip inpaint`: a part of an image repainted for a caption."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from unclip.checks import many
from unclip.interfaces.cli.manipulations import ImageOptions, open_images, write
from unclip.interfaces.cli.options import PromptOptions, captions_of, parse
from unclip.interfaces.cli.streams import progress_bar
from unclip.pipeline.settings import INPAINTING, STAGES

if TYPE_CHECKING:
    from unclip.pipeline.inpainting import Box


@dataclass(frozen=True, kw_only=True)
class Inpaint(ImageOptions, PromptOptions):
    """Repaint what is white in a mask, or in a box, for a caption; the rest is kept bit for bit.

    The mask is a picture of the image's size; 128 of 255 or brighter is repainted, and transparent
    is white. Give a mask, boxes, or both.
    """

    stages: ClassVar[tuple[str, ...]] = (*STAGES, INPAINTING)
    words: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE [MASK] PROMPT")
    ]
    """The image, the mask if there is one, and what the image should show then."""
    box: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """x0,y0,x1,y1 in pixels from the upper left corner, x1 and y1 just outside; can be repeated."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """Images, with fresh noise each."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip inpaint` say, and give the exit code."""
    options = parse(Inpaint, "inpaint", arguments)
    started = time.perf_counter()
    from unclip.pipeline.inputs import check_count

    provenance = options.check()
    count = check_count(options.n, 1)
    if not 2 <= len(options.words) <= 3:
        raise ValueError(
            f"{many(len(options.words), 'words were')} given; give the image, the mask if there is "
            "one, and the prompt in quotes"
        )
    *files, prompt = options.words
    captions_of([prompt])
    boxes = [box_of(words) for words in options.box]
    if len(files) == 1 and not boxes:
        raise ValueError("nothing says what to repaint: give a mask, or --box x0,y0,x1,y1")
    for file in files:
        if not Path(file).exists():
            raise ValueError(f"{file} does not exist; the order is IMAGE [MASK] PROMPT")
    image, *masks = open_images([Path(file) for file in files])
    settings, pipe = options.settings(), options.open()
    with progress_bar(count * pipe.inpainting_steps(settings, prompt)) as bar:
        made = pipe.inpaint(
            image,
            prompt,
            masks[0] if masks else None,
            count,
            boxes=boxes,
            seed=options.seed,
            settings=settings,
            batch_size=options.batch_size,
            callback_on_step_end=lambda *step: bar.update(step[-1]["images"]),
        )
    labels = [f"seed {seed}" for seed in made.seeds]
    write(
        [made.images],
        [prompt],
        labels,
        options,
        ["inpaint", *arguments],
        pipe,
        started,
        provenance,
        made_from=[Path(files[0])],
        kept=image,
    )
    return 0


def box_of(words: str) -> "Box":
    """ "x0,y0,x1,y1" as numbers; `ValueError` if it is not that."""
    if not re.fullmatch(r"\s*-?\d{1,9}\s*(,\s*-?\d{1,9}\s*){3}", words, re.ASCII):
        raise ValueError(f"--box {words!r} is not x0,y0,x1,y1, four whole numbers")
    x0, y0, x1, y1 = map(int, words.split(","))
    return x0, y0, x1, y1
