"""`unclip evaluate diversity`: whether generated images are as many kinds as real ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from unclip.interfaces.cli.evaluations.sampled import Sampled, Session, finish
from unclip.interfaces.cli.numbers import whole
from unclip.interfaces.cli.options import parse

Several = Annotated[int, whole(1, 64)]
Neighbour = Annotated[int, whole(1, 1000)]


@dataclass(frozen=True, kw_only=True)
class Diversity(Sampled):
    """Generate images for captions, 1,000 if -n is left out, and measure how many of them look real
    (precision, density) and how much of what is real they reach (recall, coverage, mean distance of
    two images)."""

    k: Neighbour | None = None
    """Neighbour that the balls around images reach to; 5 if left out, less of few images."""
    per_caption: Several = 1
    """Images for each caption; of two or more, it is said how unlike those of one caption are."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate diversity` say, and give the exit code."""
    options = parse(Diversity, "evaluate diversity", arguments)
    session = Session.open(options)
    fewest = min(session.sets.count, len(session.sets.reference))
    if options.k is not None and options.k >= fewest:
        raise ValueError(
            f"the neighbour {options.k} (--k) is not below the {fewest} images that there are"
        )
    from unclip.evaluation.metrics.spread import diversity
    from unclip.evaluation.report import Sheet
    from unclip.evaluation.studies.quality import APART, by_number, neighbours, spread

    made = session.made()
    several = session.several(options.per_caption)
    if options.per_caption > 1:
        session.made(images=several)
    if not session.share.first:
        return 0
    report, under = session.begin("Precision and diversity"), session.conditions
    for extractor in session.extractors.values():
        seen = session.seen(made, extractor)
        found = neighbours(seen, under, report, options.k)
        spread(seen, under, report)
        if options.per_caption > 1:
            features = session.features(extractor, made.read(several), len(several))
            one = diversity(features, [image.caption for image in several])
            more = replace(under.by(extractor), images=len(several))
            report.add(more, f"{options.per_caption} images of a caption", {APART: one})
        report.plots.append(by_number(f"Neighbours ({extractor.name})", "fraction", found))
    report.sheets.append(session.sheet(made))
    if options.per_caption > 1:
        count = session.sets.count
        rows = [(one.caption, [made.pixels(image) for image in several[k::count]])
                for k, one in enumerate(session.wanted[:8])]  # fmt: skip
        report.sheets.append(Sheet("Images of one caption", [""] * options.per_caption, rows))
    finish(report, options)
    return 0
