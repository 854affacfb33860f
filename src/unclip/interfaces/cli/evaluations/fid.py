"""`unclip evaluate fid`: how far generated images are from real ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from unclip.interfaces.cli.evaluations.sampled import Sampled, Session, finish
from unclip.interfaces.cli.options import parse


@dataclass(frozen=True, kw_only=True)
class Fid(Sampled):
    """Generate images for captions, 1,000 if -n is left out, and measure how far they are from real
    ones: FID with its extrapolation to infinitely many images, KID and CMMD."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate fid` say, and give the exit code."""
    session = Session.open(parse(Fid, "evaluate fid", arguments))
    from unclip.evaluation.studies.quality import GENERATED, REAL, distances

    made = session.made()
    if not session.share.first:
        return 0
    report, under = session.begin("Distance to real images"), session.conditions
    kept = {}
    for extractor in session.extractors.values():
        found = distances(session.seen(made, extractor), under, report)
        of = {"generated": found[GENERATED]["FID"].value}
        of |= {"real": found[REAL]["FID"].value} if REAL in found else {}
        kept[extractor.name] = of
    report.sheets.append(session.sheet(made))
    first = next(iter(kept.values()))
    finish(report, session.options, {"fid": {"images": session.sets.count, **first}})
    return 0
