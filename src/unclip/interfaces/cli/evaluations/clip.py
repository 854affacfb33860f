"""`unclip evaluate clip`: retrieval, zero-shot classes, and what captions are told apart."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from unclip.interfaces.cli.evaluations.sampled import CLIP, Sampled, Session, finish
from unclip.interfaces.cli.evaluations.shared import (
    Measured,
    open_folder,
    open_measured,
    origin,
    print_table,
)
from unclip.interfaces.cli.numbers import Pixels, Pool
from unclip.interfaces.cli.options import parse

if TYPE_CHECKING:
    from unclip.evaluation.metrics.retrieval import Retrieval
    from unclip.evaluation.report import Report
    from unclip.stages.conditioning import FrozenCLIP

PAIRS = 4  # sets of pairs that retrieval is averaged over, where the data has so many


@dataclass(frozen=True, kw_only=True)
class Clip(Sampled):
    """Find the right caption among n, and the right image: recall, zero-shot classes, and whether
    captions with the colours swapped or the relation inverted are told from the true one. With
    --generated, of images that the model makes, beside real ones."""

    otherwise: ClassVar[int] = 256
    by_coco: ClassVar[int | None] = None

    n: Annotated[Pool | None, tyro.conf.arg(aliases=["-n"])] = None
    """Candidates that each query is held against; 256 if left out, or all pairs where there are
    fewer."""
    size: Pixels | None = None
    """Pixels of the images' side; the decoder's if left out, or CLIP's own. Of generated images,
    one of the model's sizes."""
    generated: bool = False
    """Images generated for the captions, and how well they suit them, beside the real ones."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate clip` say, and give the exit code."""
    options = parse(Clip, "evaluate clip", arguments)
    return _of_generated(options) if options.generated else _of_clip(options)


def _of_generated(options: Clip) -> int:
    """How well generated images, and real ones, suit their captions."""
    session = Session.open(replace(options, against="same", features=(CLIP,)))
    from unclip.evaluation.studies.agreement import agreement
    from unclip.evaluation.studies.quality import GENERATED, REAL, by_number

    made, sets = session.made(), session.sets
    if not session.share.first:
        return 0
    report, under = session.begin("Agreement with captions"), session.conditions
    extractor, z_t = session.extractors[CLIP], session.texts(CLIP)
    assert z_t is not None
    sides = {
        GENERATED: made.read(session.wanted),
        REAL: sets.images(sets.own),
    }
    found = {}
    for of, batches in sides.items():
        z_i = session.features(extractor, batches, sets.count)
        found[of] = agreement(z_i, z_t, sets.captions, under.by(extractor), of, report)
    rates = {of: {k: v for k, v in one.items() if "among" in k} for of, one in found.items()}
    report.plots.append(by_number("Retrieval", "fraction found", rates))
    if options.clip is None:
        report.notes.append(
            "the CLIP that judges is the one that the model was made with, which its images suit "
            "too well; --clip names another model's"
        )
    report.sheets.append(session.sheet(made))
    finish(report, session.options)
    return 0


def _of_clip(options: Clip) -> int:
    """How well the model's CLIP tells real images and captions apart."""
    options.check()
    from unclip.data.sources import length
    from unclip.data.world.source import WorldSource
    from unclip.device.precision import device_named, name_of
    from unclip.evaluation.generated import fingerprint
    from unclip.evaluation.metrics.retrieval import (
        clip_retrieval,
        world_preferences,
        world_zero_shot,
    )
    from unclip.stages.conditioning import CLIP_COMPONENTS, FrozenCLIP

    folder = open_folder(options.model, CLIP_COMPONENTS)
    device = device_named(options.device)
    clip = FrozenCLIP.load(folder).to(device)
    if clip.image_encoder is None:
        raise ValueError(f"{folder.path} has no image_encoder, so there is nothing to retrieve")
    size = options.size or _native_size(folder, clip.image_encoder.config.image_size)
    on = replace(options, data=options.named)
    measured = open_measured(on, size, folder, "clip", draw=options.seed if options.coco else 0)
    source = measured.source
    asked = options.otherwise if options.n is None else options.n
    n = min(asked, length(source))
    if n < asked:
        print(f"{n} pairs are all there are: each is held against these, not {asked}")
    pools = max(1, min(PAIRS, length(source) // max(1, n)))
    measured.say(n * pools)
    found = clip_retrieval(clip, source, n, pools)
    report = {
        **origin(options),
        **measured.facts(n * pools),
        "size": size,
        "precision": name_of(next(clip.image_encoder.parameters()).dtype),
        "model_fingerprint": fingerprint(folder),
        "retrieval": found.to_dict(),
        "chance": {f"recall@{k}": k / found.among for k in found.text_to_image},
    }
    rows = [("task", "right", "by chance")]
    for name, rates in (
        ("text → image", found.text_to_image),
        ("image → text", found.image_to_text),
    ):
        rows += [(f"{name}, among {found.among}, first {k}", str(r), f"{k / found.among:.1%}")
                 for k, r in rates.items()]  # fmt: skip
    if isinstance(source, WorldSource) and source.config.kinds == ("shapes",):
        classes = world_zero_shot(clip, source.config)
        report["zero_shot"] = {name: one.to_dict() for name, one in classes.items()}
        rows += [
            (f"zero-shot {name}, of {one.classes}", str(one.accuracy), f"{1 / one.classes:.1%}")
            for name, one in classes.items()
        ]
        preferences = world_preferences(clip, source.config)
        report["preferences"] = {name: rate.to_dict() for name, rate in preferences.items()}
        rows += [
            (f"true caption, not with {wrong}", str(preferences[name]), f"{1 / 2:.1%}")
            for name, wrong in (
                ("colours", "its colours swapped"),
                ("relation", "its relation inverted"),
            )
        ]
    print_table(rows)
    written = _reported(report, found, measured, clip, n * pools, size, options)
    finish(written, options, table=False)
    return 0


def _reported(
    about: dict[str, Any], found: "Retrieval", measured: Measured, clip: "FrozenCLIP", images: int,
    size: int, options: Clip,
) -> "Report":  # fmt: skip
    """The same as a report."""
    from unclip.data.registry import format_of
    from unclip.evaluation.features.clip import of_frozen
    from unclip.evaluation.features.extractor import NetworkExtractor
    from unclip.evaluation.report import Conditions, Report, crop_of, estimate_of, filter_of
    from unclip.evaluation.studies.quality import by_number

    crop = crop_of(size, format_of(options.named).ground_truth)
    under = Conditions(
        images, "captions and images of the same pairs", found.among,
        f"{measured.split} of {measured.name}", filter_of(measured.source.check()), crop,
        extractor=CLIP, extractor_hash=NetworkExtractor(CLIP, of_frozen(clip), clip.device).hash,
    )  # fmt: skip
    report = Report("CLIP", about)
    numbers = {}
    for of, rates in (
        ("text → image", found.text_to_image),
        ("image → text", found.image_to_text),
    ):
        numbers[of] = {
            f"among {found.among}, first {k}": estimate_of(rate) for k, rate in rates.items()
        }
        report.add(under, of, numbers[of], "higher")
    report.plots.append(by_number("Retrieval", "fraction found", numbers))
    if found.among < options.otherwise:
        report.notes.append(
            f"among {found.among} more is found than among {options.otherwise}: compare at equal "
            "numbers only"
        )
    return report


def _native_size(folder: Any, otherwise: int) -> int:
    """The resolution that the model's images begin with."""
    return int(folder.config("decoder")["sample_size"]) if folder.has("decoder") else otherwise
