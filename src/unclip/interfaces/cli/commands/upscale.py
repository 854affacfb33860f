"""`unclip upscale`: any image made larger by a model's upsamplers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from unclip.interfaces.cli.marking import MarkingOptions
from unclip.interfaces.cli.numbers import Pixels
from unclip.interfaces.cli.options import SamplingOptions, computed_as, parse
from unclip.interfaces.cli.outputs import check_output, write_image, written_by
from unclip.interfaces.cli.streams import progress_bar
from unclip.pipeline.settings import UPSAMPLING


@dataclass(frozen=True, kw_only=True)
class Upscale(SamplingOptions, MarkingOptions):
    """Enlarge an image of any size and aspect.

    It is taken as the small image of the upsampler whose small images are nearest in size."""

    image: tyro.conf.Positional[Path]
    """The image file, in any common format."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out")
    """A folder, or a .png file."""
    stages: ClassVar[tuple[str, ...]] = UPSAMPLING
    size: Pixels | None = None
    """Pixels of the longer side; one pass of the nearest upsampler if left out."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip upscale` say, and give the exit code."""
    options = parse(Upscale, "upscale", arguments)
    from unclip.data.transforms import open_image
    from unclip.device.precision import name_of

    image = open_image(options.image)
    check_output(options.output)
    provenance = options.provenance()
    pipe = options.open()
    settings = options.settings()
    started = time.perf_counter()
    with progress_bar(pipe.upscaling_steps(image, settings)) as bar:
        made = pipe.upscale(
            image,
            seed=options.seed,
            settings=settings,
            callback_on_step_end=lambda *step: bar.update(step[-1]["images"]),
        ).images[0]
    notes = {
        **written_by(options.model, pipe, ["upscale", *arguments]),
        "seed": options.seed,
        "settings": settings.changed() | computed_as(pipe),
    }
    save = partial(provenance.save_png, made, info=notes, made_from=[options.image])
    where = write_image(options.output, f"{options.image.stem}-{max(made.size)}.png", save)
    (w, h), (width, height) = image.size, made.size
    print(
        f"{w}×{h} to {width}×{height} pixels in {time.perf_counter() - started:.1f} s "
        f"({name_of(pipe.dtype)} on {pipe.device}): {where}"
    )
    return 0
