"""`unclip evaluate aesthetic`: how people would rate generated images, by a linear probe."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from unclip.interfaces.cli.evaluations.sampled import CLIP, Sampled, Session, finish
from unclip.interfaces.cli.options import parse
from unclip.interfaces.cli.outputs import check_file, write_file

if TYPE_CHECKING:
    from unclip.evaluation.features.extractor import Extractor
    from unclip.evaluation.metrics.aesthetic import Probe

TASTE = "taste"


@dataclass(frozen=True, kw_only=True)
class Aesthetic(Sampled):
    """Rate generated images, 256 if -n is left out, beside real ones: by a probe of CLIP's
    embeddings that learned from ratings of images."""

    otherwise: ClassVar[int] = 256

    probe: str = TASTE
    """Probe: a .safetensors file, a table of images and ratings to fit one to (.csv, .jsonl,
    .parquet), or taste, a function of the built-in world's scenes that stands in for raters."""
    save: Path | None = None
    """Name of a .safetensors file for a probe that was fitted."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate aesthetic` say, and give the exit code."""
    options = parse(Aesthetic, "evaluate aesthetic", arguments)
    if options.save is not None:
        check_file(options.save, ".safetensors")
    session = Session.open(replace(options, features=(CLIP,)))
    from unclip.evaluation.studies.guidance import AESTHETIC
    from unclip.evaluation.studies.quality import GENERATED, REAL

    extractor = session.extractors[CLIP]
    probe, worth = probe_of(options.probe, session, extractor)
    made, sets = session.made(), session.sets
    if not session.share.first:
        return 0
    report, under = session.begin("Aesthetic score"), session.conditions
    report.notes.append(worth)
    if options.save is not None:
        print(f"written to {write_file(options.save, probe.save)}")
    sides = {GENERATED: made.read(session.wanted), REAL: sets.images(sets.own)}
    for of, batches in sides.items():
        z_i = session.features(extractor, batches, sets.count)
        report.add(under.by(extractor), of, {AESTHETIC: probe.score(z_i)}, "higher")
    report.sheets.append(session.sheet(made))
    finish(report, options)
    return 0


def probe_of(name: str, session: Session, extractor: "Extractor") -> "tuple[Probe, str]":
    """The probe that a flag names, before images are made, and what it is worth in a sentence.

    Raises:
        ValueError: there is none, it belongs to another CLIP, or cannot be fitted.
    """
    import torch

    from unclip.evaluation.features.files import read_images
    from unclip.evaluation.metrics.aesthetic import Probe, fit
    from unclip.evaluation.studies.taste import read_ratings, world_fit

    if Path(name).suffix.lower() == ".safetensors":
        probe = Probe.open(Path(name))
        probe.check_fits(extractor)
        worth = (probe.facts or {}).get("r2", "unknown")
        return probe, f"the probe is {name}; its R² on held-out images: {worth}"
    if name == TASTE:
        fitted = world_fit(extractor, session.options.world)
        what = "a function of the built-in world's scenes that stands in for raters"
    else:
        rated = read_ratings(Path(name))
        features = session.features(extractor, read_images(rated.files), len(rated.files))
        fitted = fit(features, torch.tensor(rated.ratings), extractor.hash)
        what = f"the ratings of {name}"
    return fitted.probe, (
        f"the probe was fitted to {what}: R² {fitted.r2} on {fitted.held_out:,} held-out images, "
        f"{fitted.fitted:,} fitted to"
    )
