"""`unclip evaluate diversity`: whether generated images are as many kinds as real ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from unclip.interfaces.cli.evaluations.sampled import Sampled, Session, finish
from unclip.interfaces.cli.numbers import whole
from unclip.interfaces.cli.options import parse

Neighbour = Annotated[int, whole(1, 1000)]


@dataclass(frozen=True, kw_only=True)
class Diversity(Sampled):
    """Generate images for captions, 1,000 if -n is left out, and measure how many of them look real
    (precision, density) and how much of what is real they reach (recall, coverage, mean distance of
    two images)."""

    k: Neighbour | None = None
    """Neighbour that the balls around images reach to; 5 if left out, less of few images."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate diversity` say, and give the exit code."""
    options = parse(Diversity, "evaluate diversity", arguments)
    session = Session.open(options)
    fewest = min(session.sets.count, len(session.sets.reference))
    if options.k is not None and options.k >= fewest:
        raise ValueError(
            f"the neighbour {options.k} (--k) is not below the {fewest} images that there are"
        )
    from unclip.evaluation.studies.quality import by_number, neighbours

    made = session.made()
    if not session.share.first:
        return 0
    report, under = session.begin("Precision and diversity"), session.conditions
    for extractor in session.extractors.values():
        seen = session.seen(made, extractor)
        found = neighbours(seen, under, report, options.k)
        report.plots.append(by_number(f"Neighbours ({extractor.name})", "fraction", found))
    report.sheets.append(session.sheet(made))
    finish(report, options)
    return 0
