"""`unclip evaluate memorisation`: whether a model gives out its training images."""

import sys
from collections.abc import Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from unclip.interfaces.cli.evaluations.sampled import finish
from unclip.interfaces.cli.evaluations.shared import (
    Measuring,
    check_features,
    check_output,
    open_folder,
    origin,
)
from unclip.interfaces.cli.numbers import Count, whole
from unclip.interfaces.cli.options import PromptOptions, parse
from unclip.interfaces.cli.outputs import check_file, check_folder, write_file, written_by
from unclip.interfaces.cli.sources import check_template, own_words
from unclip.interfaces.cli.streams import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from unclip.evaluation.memorisation.copies import Copies
    from unclip.evaluation.memorisation.data import Asked, Compared
    from unclip.evaluation.memorisation.membership import Membership
    from unclip.evaluation.memorisation.spaces import Looked, Space
    from unclip.evaluation.report import Conditions, Report, Sheet
    from unclip.pipeline.pipeline import Pipeline
    from unclip.storage.folder import ModelFolder

Many = Annotated[int, whole(8, 10_000_000)]
_SHOWN = 12  # pairs on a sheet
_CAPTIONED = (
    "images were made for captions of training images: features that see little beyond what a "
    "caption says find them close to its image, copied or not; copies in pixels are the evidence"
)


@dataclass(frozen=True, kw_only=True)
class Memorisation(Measuring, PromptOptions):
    """Look for copies of training images among generated ones, in pixels (mirrored and cropped ones
    too) and in features, beside a threshold that is calibrated on planted copies; and measure
    whether the decoder's losses tell training images from unseen ones."""

    data: str | None = None
    """Data that the model was trained on, as `unclip train` names it; what the model's folder
    notes, if left out."""
    held_out: str | None = None
    """Other data like it that training did not see; if left out, what training held out."""
    template: str = ""
    """Caption of images that only a class is known of, such as "a photo of a {}"."""
    images: Path | None = None
    """Folder of generated images that are looked at; if left out, the model makes some for captions
    of its training images."""
    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 500
    """Generated images that are looked at, at most."""
    train_images: Many = 10_000
    """Training images that are searched, at most."""
    unseen_images: Many = 1000
    """Images that training did not see, at most; and as many training images whose losses are
    compared."""
    features: tuple[str, ...] = ("clip",)
    """Networks whose features are compared beside pixels: clip (the model's own),
    efficientnet-lite0, judge (the bundled one's), or folders of a CLIP, ViT, DINOv2 or
    Inception."""
    kept: Path = Path("out") / "generated"
    """Folder that made images and features are kept in, and taken from where they are there."""
    sheet: Path | None = None
    """Name of a .png file for the generated images that are closest to training images, beside
    those."""
    report: Path | None = None
    """Name of an .html file for numbers and pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_features(self.features)

    def check(self) -> None:
        """Refuse, before any work, what could not be written or read."""
        check_output(self.output)
        if self.report is not None:
            from unclip.evaluation.plots import check_plots

            check_file(self.report, ".html")
            check_plots()
        if self.sheet is not None:
            check_file(self.sheet, ".png")
        check_folder(self.kept)
        check_template(self.template)

    @property
    def asked(self) -> "Asked":
        from unclip.evaluation.memorisation.data import Asked

        return Asked(
            self.data, self.held_out, self.world, self.template, self.seed,
            self.train_images, self.unseen_images,
        )  # fmt: skip


def run(arguments: Several[str]) -> int:
    """Do what the words after `unclip evaluate memorisation` say, and give the exit code."""
    options = parse(Memorisation, "evaluate memorisation", arguments)
    options.check()
    looking = _Looking.open(options)
    made = looking.made()
    found = {space.name: looking.copies(space, made) for space in looking.spaces}
    report = looking.begin(len(made))
    under = looking.under(len(made))
    for space in looking.spaces:
        of = replace(under, extractor=space.name, extractor_hash=space.hash)
        _add(report, of, found[space.name])
    _add_membership(report, under, looking)
    sheet = looking.sheet(made, list(found.values()))
    report.sheets.append(sheet)
    finish(report, options)
    if options.sheet is not None:
        print(f"written to {write_file(options.sheet, lambda path: _draw(sheet, path))}")
    return 0


@dataclass(frozen=True)
class _Looking:
    """What is open while copies are looked for."""

    options: Memorisation
    pipe: "Pipeline"
    model: "ModelFolder"
    size: int
    compared: "Compared"
    spaces: "Several[Space]"

    @classmethod
    def open(cls, options: Memorisation) -> "_Looking":
        from unclip.evaluation.features.extractor import open_extractors
        from unclip.evaluation.memorisation.data import Compared
        from unclip.evaluation.memorisation.spaces import Features, Pixels

        settings, pipe = options.settings(), options.open()
        model = open_folder(options.model, (), options.revision, options.variant)
        pipe.evaluations(settings)  # refuses what the model does not have
        size = settings.size or pipe.sizes[-1]
        with own_words():
            compared = Compared.open(model, options.asked, size)
        spaces: list[Space] = [Pixels()]
        for extractor in open_extractors(options.features, pipe).values():
            spaces.append(Features(extractor, options.kept / "features"))
        return cls(options, pipe, model, size, compared, spaces)

    def made(self) -> "list[Tensor]":
        """The generated images (3, H, W) uint8: those of the folder, or of the model."""
        return self._from_folder() if self.options.images is not None else self._from_model()

    def _from_folder(self) -> "list[Tensor]":
        from unclip.data.transforms import open_image, square, to_bytes
        from unclip.evaluation.people.folders import pictures_in

        assert self.options.images is not None
        found = pictures_in(self.options.images)[: self.options.n]
        return [to_bytes(square(open_image(one.file), self.size)) for one in found]

    def _from_model(self) -> "list[Tensor]":
        from unclip.data.sources import first_captions
        from unclip.evaluation.generated import Generated, from_captions, made_with, wanted

        options, settings = self.options, self.options.settings()
        captions = first_captions(self.compared.train, min(options.n, self.compared.train_count))
        captions = [captions[k % len(captions)] for k in range(options.n)]
        asked = wanted(captions, options.seed)
        made = Generated(options.kept, made_with(self.pipe, self.model, settings))
        todo = len(made.missing(asked))
        if todo < len(asked):
            there = f"{len(asked) - todo:,} of {len(asked):,} images are there"
            print(f"{there}: {made.folder}", file=sys.stderr)
        notes = {**written_by(options.model, self.pipe), "settings": settings.changed()}
        with progress_bar(self.pipe.evaluations(settings) * todo) as bar:
            draw = from_captions(self.pipe, settings, bar.update)
            made.make(asked, draw, options.batch_size, notes=notes)
        return [made.pixels(one) for one in asked]

    def copies(self, space: "Space", made: "list[Tensor]") -> "Copies":
        """What a space says of them."""
        from unclip.evaluation.memorisation.copies import Sides, find_copies
        from unclip.evaluation.memorisation.data import PLANTED, images, planted
        from unclip.evaluation.memorisation.planted import KINDS

        one, seed = self.compared, self.options.seed
        total = one.train_count + one.unseen_count + len(made) + PLANTED * len(KINDS)
        with progress_bar(total) as bar:

            def look(batches: "Iterator[Tensor]") -> "Looked":
                return space.look(batches, bar.update)

            sides = Sides(
                look(images(one.train, one.train_count)),
                look(images(one.unseen, one.unseen_count)),
                one.numbers,
                look(_batches(made)),
                {kind: look(planted(one, kind, seed)) for kind in KINDS},
            )
        return find_copies(space, sides, seed)

    def membership(self) -> "Membership | None":
        """What the decoder's losses say; None where nothing was held out."""
        from unclip.evaluation.memorisation.data import Compared, batches
        from unclip.evaluation.memorisation.membership import losses, membership

        if self.compared.own:
            return None
        decoder = self.pipe.decoder
        with own_words():
            one = Compared.open(self.model, self.options.asked, decoder.size)
        count = min(one.train_count, one.unseen_count)
        with progress_bar(count + one.unseen_count) as bar:
            both = [
                losses(
                    decoder, _fitting(batches(source, n), self.pipe), self.options.seed, bar.update
                )
                for source, n in ((one.train, count), (one.unseen, one.unseen_count))
            ]
        return membership(*both)

    def under(self, count: int) -> "Conditions":
        """What numbers of copies are measured under."""
        from unclip.data.registry import format_of
        from unclip.evaluation.report import Conditions, crop_of, filter_of

        one = self.compared
        return Conditions(
            count, "training images", one.train_count, f"train of {one.name}",
            filter_of(one.train.check()), crop_of(self.size, format_of(one.name).ground_truth),
            self.size,
        )  # fmt: skip

    def begin(self, count: int) -> "Report":
        from unclip.evaluation.generated import fingerprint
        from unclip.evaluation.report import Report

        about = {
            **origin(self.options),
            **self.compared.facts(),
            "images": count,
            "model_fingerprint": fingerprint(self.model),
        }
        notes = [_CAPTIONED] if self.options.images is None else []
        return Report(f"Copies of training images: {self.pipe.name}", about, notes=notes)

    def sheet(self, made: "list[Tensor]", found: "Several[Copies]") -> "Sheet":
        """The images that are closest to training images, beside those, by each space."""
        from unclip.data.sources import read
        from unclip.evaluation.memorisation.copies import closest_first
        from unclip.evaluation.report import Sheet

        shown = closest_first(found)[:_SHOWN]
        numbers = sorted({int(one.nearest[k]) for one in found for k in shown})
        samples = dict(zip(numbers, read(self.compared.train, numbers), strict=True))
        rows = []
        for k in shown:
            near = [
                f"{space.name} {float(one.nearness[k]):.2f}"
                for space, one in zip(self.spaces, found, strict=True)
            ]
            pictures = [samples[int(one.nearest[k])]["image"] for one in found]
            rows.append((", ".join(near), [made[k], *pictures]))
        columns = ("generated", *(f"nearest, {space.name}" for space in self.spaces))
        return Sheet("Generated images that are closest to training images", columns, rows)


def _add(report: "Report", under: "Conditions", found: "Copies") -> None:
    from unclip.evaluation.intervals import Estimate
    from unclip.evaluation.report import estimate_of

    report.add(under, "generated", {"copies": estimate_of(found.copies)}, "lower")
    report.add(under, "unseen", {"false alarms": estimate_of(found.false)}, "lower")
    for kind, rate in found.found.items():
        report.add(under, f"planted, {kind}", {"found": estimate_of(rate)}, "higher")
    nan = float("nan")
    report.add(under, "nearness", {"threshold": Estimate(found.threshold, nan, nan)})
    report.add(under, "generated / unseen", {"distance to training": found.apart})
    report.add(under, "generated", {"AuthPct": estimate_of(found.authentic)}, "higher")
    report.add(under, "unseen", {"AuthPct": estimate_of(found.authentic_unseen)})


def _add_membership(report: "Report", under: "Conditions", looking: _Looking) -> None:
    from unclip.evaluation.report import estimate_of

    if looking.compared.own:
        report.notes.append(
            "nothing was held out of training: training images stand for unseen ones, and losses "
            "are not compared (--held-out names data that training did not see)"
        )
        return
    found = looking.membership()
    assert found is not None
    count = min(looking.compared.train_count, looking.compared.unseen_count)
    under = replace(
        under, images=count, reference=f"unseen images: {looking.compared.said}",
        references=looking.compared.unseen_count, made=0, extractor="decoder's loss",
    )  # fmt: skip
    report.add(under, "training / unseen", {"membership AUC": found.auc})
    report.add(under, "unseen / unseen", {"membership AUC": found.control})
    strict = {"told at 1 % false alarms": estimate_of(found.strict)}
    report.add(under, "training", strict, "lower")


def _batches(made: "list[Tensor]", batch: int = 64) -> "Iterator[Tensor]":
    import torch

    from unclip.pixels import to_signed

    for first in range(0, len(made), batch):
        yield to_signed(torch.stack(made[first : first + batch]))


def _fitting(found: Any, pipe: "Pipeline") -> Any:
    """Batches of the decoder's size, where it computes."""
    import torch.nn.functional as F

    for batch in found:
        images = batch["images"].to(pipe.device)
        side = pipe.decoder.size
        if images.shape[-1] != side:  # the data's smallest is larger
            images = F.interpolate(images, (side, side), mode="area")
        yield batch | {"images": images}


def _draw(sheet: "Sheet", path: Path) -> None:
    from unclip.data.transforms import from_bytes
    from unclip.outputs.images import contact_sheet

    rows = [[from_bytes(one) for one in pictures] for _, pictures in sheet.rows]
    labels = [label for label, _ in sheet.rows]
    contact_sheet(rows, labels, sheet.columns, path, title=sheet.title)
