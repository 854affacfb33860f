"""`unclip evaluate edits`: what edits, variations and blends change and keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from unclip.interfaces.cli.evaluations.shared import (
    Judged,
    check_output,
    origin,
    print_table,
    tell,
)
from unclip.interfaces.cli.numbers import Count, Fraction, Steps
from unclip.interfaces.cli.options import parse
from unclip.interfaces.cli.streams import progress_bar

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class Edits(Judged):
    """Edit, vary and blend held-out scenes of one object, and say what the judge sees of it."""

    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 200
    """Scenes; each is edited in its object, colour or background, or in two of them, in turn."""
    theta: tuple[Fraction, ...] = (0.25, 0.35, 0.5)
    """Distances θ that edits go; the table shows the best one for each kind of edit."""
    invert_steps: Steps = 50
    """Steps of the inversion, and of decoding what it found."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate edits` say, and give the exit code."""
    options = parse(Edits, "evaluate edits", arguments)
    check_output(options.output)
    from unclip.device.precision import name_of
    from unclip.evaluation.studies.edits import evaluate_edits, images_made

    pipe, judge = options.open_both()
    with progress_bar(images_made(options.n, options.theta)) as bar:
        result = evaluate_edits(
            pipe, judge, options.world, options.n, options.theta, options.invert_steps,
            options.settings(), options.batch_size, options.seed, options.trust, bar.update,
        )  # fmt: skip
    report = {**origin(options), "precision": name_of(pipe.dtype), **result.to_dict()}
    rows: list[tuple[str, ...]] = [("edit", "start", "θ", "changed", "others kept", "both")]
    for start, scores in result.edits.items():
        for name in scores[options.theta[0]]:
            theta = result.best(start, name)
            one = scores[theta][name]
            rates = (one.changed, one.kept, one.success)
            rows.append((name, start, f"{theta:g}", *map(str, rates)))
    print_table(rows)
    print()
    rows = [("the scene's own", *next(iter(result.variations.values())))]
    for what, kept in (("variation", result.variations), ("blend", result.ends)):
        rows += [(f"{what}, {key}", *map(str, rates.values())) for key, rates in kept.items()]
    tell(rows, report, options.output)
    return 0
