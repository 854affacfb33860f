"""`unclip evaluate inpainting`: whether a hidden object is repainted, and the border."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from unclip.interfaces.cli.evaluations.shared import (
    Judged,
    check_output,
    origin,
    tell,
)
from unclip.interfaces.cli.numbers import Count
from unclip.interfaces.cli.options import PromptOptions, parse
from unclip.interfaces.cli.streams import progress_bar
from unclip.pipeline.settings import INPAINTING, STAGES

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class Inpainting(Judged, PromptOptions):
    """Hide one of the two objects of held-out scenes, repaint it for the scene's caption, and say
    what the judge sees, and how far the image jumps at the border."""

    stages: ClassVar[tuple[str, ...]] = (*STAGES, INPAINTING)
    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 200
    """Scenes."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate inpainting` say, and give the exit code."""
    options = parse(Inpainting, "evaluate inpainting", arguments)
    check_output(options.output)
    from unclip.device.precision import name_of
    from unclip.evaluation.studies.repainting import evaluate_inpainting

    settings, (pipe, judge) = options.settings(), options.open_both()
    with progress_bar(pipe.inpainting_steps(settings) * options.n) as bar:
        result = evaluate_inpainting(
            pipe, judge, options.world, options.n, settings, options.seed, options.trust, bar.update
        )
    report = {**origin(options), "precision": name_of(pipe.dtype), "scenes": options.n}
    rows = [(name, str(rate)) for name, rate in result.rates().items()]
    rows.append(("jump at the border", f"{result.seam:.1f} of 255; true: {result.true_seam:.1f}"))
    tell(rows, {**report, **result.to_dict()}, options.output)
    return 0
