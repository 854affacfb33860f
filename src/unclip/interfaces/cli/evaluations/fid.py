"""`unclip evaluate fid`: how far generated images are from real ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from unclip.interfaces.cli.evaluations.shared import (
    Measuring,
    Split,
    check_output,
    generator,
    open_folder,
    open_measured,
    origin,
    tell,
)
from unclip.interfaces.cli.numbers import Count
from unclip.interfaces.cli.options import PromptOptions, parse
from unclip.interfaces.cli.streams import progress_bar

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class Fid(Measuring, PromptOptions):
    """Generate images for captions, and measure how far they are from real ones: the Fréchet
    distance of their CLIP embeddings."""

    data: str = "emoji:shapes"
    """Data: the built-in world (its held-out scenes), or a folder of captioned images."""
    split: Split | None = None
    """Part of the folder's images; if left out, what training held out, or all if too few."""
    template: str = ""
    """Caption of images that only a class is known of, such as "a photo of a {}"."""
    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 1000
    """Images generated, for as many captions; they are held against the real images of as many
    others. Fewer give a larger distance."""
    clip: Path | None = None
    """Model folder whose CLIP measures, to compare models; the model's own if left out."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate fid` say, and give the exit code."""
    options = parse(Fid, "evaluate fid", arguments)
    check_output(options.output)
    from unclip.device.precision import name_of
    from unclip.evaluation.metrics.fid import evaluate_fid
    from unclip.stages.conditioning import FrozenCLIP
    from unclip.storage.folder import ModelFolder

    settings, pipe = options.settings(), options.open()
    clip = pipe.clip
    if options.clip is not None:
        clip = FrozenCLIP.load(ModelFolder(options.clip)).to(pipe.device)
    if clip.image_encoder is None:
        raise ValueError("the model has no image_encoder to compare images with; give --clip DIR")
    size = settings.size or pipe.sizes[-1]
    model = open_folder(options.model, (), options.revision, options.variant)
    measured = open_measured(options, size, model)
    measured.say(2 * options.n)
    with progress_bar(pipe.evaluations(settings) * options.n) as bar:
        generate = generator(pipe, settings, options.batch_size, bar.update)
        found = evaluate_fid(
            clip, generate, measured.source, options.n, options.batch_size, options.seed
        )
    report = {
        **origin(options),
        **measured.facts(2 * options.n),
        "precision": name_of(pipe.dtype),
        "size": size,
    }
    n = found.images
    rows = [
        (f"{n} generated images, to {n} real ones of other captions", f"{found.generated:.4f}"),
        ("the real images of the same captions, to those", f"{found.real:.4f}"),
    ]
    tell(rows, {**report, "fid": found.to_dict()}, options.output)
    return 0
