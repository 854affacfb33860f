"""`unclip evaluate guidance`: what a higher guidance scale gains and loses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from unclip.interfaces.cli.evaluations.aesthetic import probe_of
from unclip.interfaces.cli.evaluations.sampled import CLIP, Sampled, Session, finish
from unclip.interfaces.cli.evaluations.shared import print_table
from unclip.interfaces.cli.numbers import real
from unclip.interfaces.cli.options import parse

Scale = Annotated[float, real(0, 1000)]
KNOBS = {"decoder": "decoder_guidance_scale", "prior": "prior_guidance_scale"}


@dataclass(frozen=True, kw_only=True)
class Guidance(Sampled):
    """Generate the same images, 200 if -n is left out, at several guidance scales, and draw
    distance, precision, recall and CLIP score by the scale."""

    otherwise: ClassVar[int] = 200

    scales: tuple[Scale, ...] = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    """Guidance scales that are tried; 1 is no guidance."""
    of: Literal["decoder", "prior"] = "decoder"
    """Stage whose scale is changed."""
    probe: str | None = None
    """Probe of aesthetic scores, see unclip evaluate aesthetic; none if left out."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate guidance` say, and give the exit code."""
    options = parse(Guidance, "evaluate guidance", arguments)
    if options.probe is not None and CLIP not in options.features:
        raise ValueError("a probe rates CLIP's embeddings: give --features clip with --probe")
    knob = KNOBS[options.of]
    if getattr(options.settings(), knob) is not None:
        raise ValueError(f"the {options.of}'s guidance is what --scales changes: leave it out")
    session = Session.open(options)
    from unclip.evaluation.report import Sheet
    from unclip.evaluation.studies.guidance import by_scale, plots, table, tradeoff

    probe, worth = None, ""
    if options.probe is not None:
        probe, worth = probe_of(options.probe, session, session.extractors[CLIP])
    scales = sorted(set(options.scales))
    made = {scale: session.made(session.settings.with_values({knob: scale})) for scale in scales}
    if not session.share.first:
        return 0
    report, under = session.begin(f"Guidance of the {options.of}"), session.conditions
    report.notes += [worth] if worth else []
    captions = session.sets.captions
    for name, extractor in session.extractors.items():
        z_t = session.texts(name)
        found = {
            scale: by_scale(
                scale,
                session.seen(made[scale], extractor),
                z_t,
                captions,
                under,
                report,
                probe if name == CLIP else None,
            )
            for scale in scales
        }
        report.plots += plots(extractor.name, found)
        print_table(table(extractor.name, found))
        print()
        recall = next(metric for metric in found[scales[0]] if metric.startswith("recall"))
        report.plots.append(tradeoff(extractor.name, found, recall, "FID"))
    rows = [
        (one.caption, [made[scale].pixels(one) for scale in scales]) for one in session.wanted[:8]
    ]
    names = [f"{scale:g}" for scale in scales]
    report.sheets.append(Sheet("The same seeds at each guidance scale", names, rows))
    finish(report, options, table=False)
    return 0
