"""`unclip evaluate reconstruction`: how much of an image its embedding keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from unclip.interfaces.cli.evaluations.sampled import SHOWN, OnImages, Session, finish
from unclip.interfaces.cli.numbers import Steps
from unclip.interfaces.cli.options import parse
from unclip.pipeline.settings import DECODING


@dataclass(frozen=True, kw_only=True)
class Reconstruction(OnImages):
    """Decode real images, 100 if -n is left out, from their own embeddings, with fresh noise and
    with the noise that inversion finds, and measure how much of them comes back."""

    stages: ClassVar[tuple[str, ...]] = DECODING
    otherwise: ClassVar[int] = 100

    invert_steps: Annotated[Steps, tyro.conf.arg(name="invert-steps")] = 50
    """Steps of the inversion, and of decoding what it found."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate reconstruction` say, and give the exit code."""
    options = parse(Reconstruction, "evaluate reconstruction", arguments)
    session = Session.open(options)
    from unclip.evaluation.generated import Generated, made_with
    from unclip.evaluation.report import Sheet
    from unclip.evaluation.studies.reconstruction import (
        FRESH,
        INVERTED,
        from_embeddings,
        in_features,
        in_pixels,
        of_images,
        resized,
    )

    pipe, steps = session.pipe, options.invert_steps
    real = session.real()
    wanted = of_images(real, options.seed)
    back = session.settings.for_reconstruction(steps)
    ways = {
        FRESH: (session.settings, 0, pipe.evaluations(session.settings, "decoder")),
        INVERTED: (back, steps, pipe.evaluations(back, "decoder") + steps),
    }
    made = {}
    for way, (settings, inverted, each) in ways.items():
        with_ = made_with(pipe, session.model, settings, made=way, inverted_in=inverted)
        made[way] = Generated(options.images, with_)
        session.make(
            made[way], wanted, settings, each,
            lambda bar, settings=settings, inverted=inverted: from_embeddings(
                pipe, settings, real, bar, inverted
            ),
        )  # fmt: skip
    if not session.share.first:
        return 0
    report, under = session.begin("Reconstruction"), session.conditions
    for way, images in made.items():
        pixels = session.all_of(images, wanted)
        in_pixels(pixels, resized(real, pixels.shape[-1]), under, way, report)
    for extractor in session.extractors.values():
        truth = session.features(extractor, session.sets.images(session.sets.own), len(wanted))
        for way, images in made.items():
            of = session.features(extractor, images.read(wanted), len(wanted))
            in_features(of, truth, extractor, under, way, report)
    rows = [("", [real[k], *(one.pixels(wanted[k]) for one in made.values())])
            for k in range(min(SHOWN, len(wanted)))]  # fmt: skip
    report.sheets.append(Sheet("Images, and what is made of them", ("image", *made), rows))
    finish(report, options)
    return 0
