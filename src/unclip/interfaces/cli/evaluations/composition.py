"""`unclip evaluate composition`: how often images for held-out captions are right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from unclip.interfaces.cli.evaluations.shared import (
    Judged,
    check_output,
    generator,
    origin,
    tell,
)
from unclip.interfaces.cli.numbers import Count
from unclip.interfaces.cli.options import PromptOptions, parse
from unclip.interfaces.cli.streams import progress_bar

if TYPE_CHECKING:
    from unclip.evaluation.metrics.composition import Composition


@dataclass(frozen=True, kw_only=True)
class Compositions(Judged, PromptOptions):
    """Generate images for captions of held-out scenes, and say how often they are right."""

    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 500
    """Scenes."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate composition` say, and give the exit code."""
    options = parse(Compositions, "evaluate composition", arguments)
    check_output(options.output)
    from unclip.device.precision import name_of
    from unclip.evaluation.metrics.composition import evaluate_model

    settings, (pipe, judge) = options.settings(), options.open_both()
    with progress_bar(pipe.evaluations(settings) * options.n) as bar:
        generate = generator(pipe, settings, options.batch_size, bar.update)
        result = evaluate_model(
            generate, judge, options.world, options.n, options.batch_size, options.seed,
            options.trust,
        )  # fmt: skip
    report = {**origin(options), "precision": name_of(pipe.dtype), **result.to_dict()}
    rows: list[tuple[str, ...]] = [("right", "generated", "real, by the judge")]
    rows += _side_by_side(result.generated, result.real)
    tell(rows, report, options.output)
    return 0


def _side_by_side(generated: "Composition", real: "Composition") -> list[tuple[str, ...]]:
    truth = real.rates()
    return [(name, str(rate), str(truth[name])) for name, rate in generated.rates().items()]
