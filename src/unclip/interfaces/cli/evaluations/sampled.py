"""What evaluations of generated images share: flags, what they open, and what they leave behind.

The order is always the same: everything is checked and opened, images are made (or found), features
taken (or found), numbers computed, and told. Processes of torchrun share the making; the first of
them measures.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

import tyro

from unclip.checks import many, printable
from unclip.device.processes import this_process
from unclip.interfaces.cli.evaluations.shared import (
    Measured,
    Measuring,
    Split,
    check_features,
    check_output,
    open_folder,
    open_measured,
    origin,
    print_table,
)
from unclip.interfaces.cli.numbers import Count
from unclip.interfaces.cli.options import PromptOptions
from unclip.interfaces.cli.outputs import check_file, check_folder, write_file, written_by
from unclip.interfaces.cli.streams import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from unclip.evaluation.features.extractor import Extractor
    from unclip.evaluation.generated import Draw, Generated, Share, Wanted
    from unclip.evaluation.report import Conditions, Report, Sheet
    from unclip.evaluation.sets import Against, Sets
    from unclip.evaluation.studies.quality import Seen
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.settings import Settings
    from unclip.storage.folder import ModelFolder

WORLD_DATA = "emoji:shapes"
COCO_IMAGES, COCO_SIZE = 30_000, 256
CLIP = "clip"
SHOWN = 24
"""Pairs of pictures in a report."""


@dataclass(frozen=True, kw_only=True)
class OnImages(Measuring, PromptOptions):
    """Flags of what is measured with images of any data."""

    otherwise: ClassVar[int] = 1000
    """Images, where nobody says how many."""
    by_coco: ClassVar[int | None] = None
    """The same of COCO's protocol, where that has a number."""
    start: ClassVar[Literal["prior", "decoder"]] = "decoder"
    """The first stage that is sampled."""
    captioned: ClassVar[bool] = False
    """Whether images are made for captions."""

    data: str = WORLD_DATA
    """Data of captioned images: a folder, KIND:PLACE (wds, hf, coco, mix), or the built-in world
    (its held-out scenes)."""
    split: Split | None = None
    """Part of the data's images; if left out, what training held out, or all if too few."""
    coco: tuple[Path, Path] | None = None
    """COCO's file of captions and its folder of images, by its protocol: captions drawn by --seed,
    30,000 where images are generated for them and held against all real ones at 256 pixels."""
    template: str = ""
    """Caption of images that only a class is known of, such as "a photo of a {}"."""
    n: Annotated[Count | None, tyro.conf.arg(aliases=["-n"])] = None
    """Images generated, for as many captions; if left out, as many as the help of the command says,
    or as there are. Only numbers of as many images can be compared."""
    features: tuple[str, ...] = (CLIP,)
    """Networks whose features are compared: clip (the model's own), efficientnet-lite0, judge
    (the bundled one's), or folders of a CLIP, ViT, DINOv2 or Inception."""
    clip: Path | None = None
    """Model folder whose CLIP is meant by clip, to compare models; the model's own if left out."""
    images: Path = Path("out") / "generated"
    """Folder that generated images are kept in, and taken from where they are there."""
    report: Path | None = None
    """Name of an .html file for numbers, plots and pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_features(self.features)

    @property
    def held_against(self) -> "Against":
        """See `Sets`."""
        return "same"

    @property
    def named(self) -> str:
        """Of the data."""
        if self.coco is None:
            return self.data
        if self.data != WORLD_DATA:
            raise ValueError("--coco and --data both say what the data is: give one of them")
        return f"coco:{self.coco[0]}:{self.coco[1]}"

    def check(self) -> None:
        """Refuse, before any work, files that could not be written."""
        check_output(self.output)
        if self.report is not None:
            from unclip.evaluation.plots import check_plots

            check_file(self.report, ".html")
            check_plots()
        check_folder(self.images)


@dataclass(frozen=True, kw_only=True)
class Sampled(OnImages):
    """Flags of what is measured on images that are generated for captions."""

    by_coco: ClassVar[int | None] = COCO_IMAGES
    start: ClassVar[Literal["prior", "decoder"]] = "prior"
    captioned: ClassVar[bool] = True

    against: Literal["others", "same", "all"] | None = None
    """Real images that generated ones are held against: those of as many other captions, of the
    same captions, or all of the split; others if left out, and all for --coco."""

    @property
    def held_against(self) -> "Against":
        return self.against or ("others" if self.coco is None else "all")


@dataclass(frozen=True)
class Session:
    """What is open while an evaluation runs."""

    options: OnImages
    settings: "Settings"
    pipe: "Pipeline"
    model: "ModelFolder"
    measured: Measured
    sets: "Sets"
    share: "Share"
    extractors: "Mapping[str, Extractor]"
    told: list[str] = field(default_factory=list)
    """What has been said already; nothing is before all is checked."""

    @classmethod
    def open(cls, options: OnImages, *stages: str) -> "Session":
        """Everything that the flags name.

        Args:
            stages: whose training counts for what was held out, all if none is named.

        Raises:
            ValueError: what is missing, or does not fit.
        """
        from unclip.device.precision import device_of_process
        from unclip.evaluation.features.extractor import open_extractors
        from unclip.evaluation.generated import Share
        from unclip.evaluation.sets import Sets

        options.check()
        share = Share(*this_process())
        if share.processes > 1:
            options = replace(options, device=str(device_of_process(options.device)))
        settings, pipe = options.settings(), options.open()
        model = open_folder(options.model, (), options.revision, options.variant)
        paths = {CLIP: options.clip} if options.clip is not None else {}
        extractors = open_extractors(options.features, pipe, paths)
        size = settings.size or pipe.sizes[-1]
        pipe.evaluations(settings, options.start)  # refuses what the model does not have
        on = replace(options, data=options.named)
        if options.coco is None:
            measured = open_measured(on, size, model, *stages)
        else:
            on = replace(on, split=options.split or "all")
            size = COCO_SIZE if options.by_coco else size
            measured = open_measured(on, size, model, *stages, draw=options.seed)
        count = options.otherwise if options.coco is None else options.by_coco or options.otherwise
        sets = Sets.choose(
            measured.source, options.n, count, options.held_against, options.captioned
        )
        return cls(options, settings, pipe, model, measured, sets, share, extractors)

    # ---- images -----------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Samples of the data."""
        return len(set(self.sets.own) | set(self.sets.reference))

    @cached_property
    def wanted(self) -> "list[Wanted]":
        """An image for each caption."""
        from unclip.evaluation.generated import wanted

        return wanted(self.sets.captions, self.options.seed)

    def several(self, count: int) -> "list[Wanted]":
        """`count` images for each caption: first one for each, then another for each, …"""
        from unclip.evaluation.generated import wanted

        return wanted(self.sets.captions * count, self.options.seed)

    def made(
        self, settings: "Settings | None" = None, images: "Sequence[Wanted] | None" = None
    ) -> "Generated":
        """The images of the captions, made where they are not there: by all processes, and waited
        for by the first.

        Args:
            settings: others than the flags say.
            images: others than one for each caption.
        """
        from unclip.evaluation.generated import Generated, from_captions, made_with

        settings = settings or self.settings
        made = Generated(self.options.images, made_with(self.pipe, self.model, settings))
        steps = self.pipe.evaluations(settings)
        images = self.wanted if images is None else images
        draw = partial(from_captions, self.pipe, settings)
        self.make(made, images, settings, steps, draw)
        return made

    def make(
        self, made: "Generated", images: "Sequence[Wanted]", settings: "Settings", steps: int,
        draw: Any,
    ) -> None:  # fmt: skip
        """Make what is not there yet.

        Args:
            settings: that it is made with, for the images' notes.
            steps: of sampling, for an image.
            draw: what is told of steps → what draws images and tells them.
        """
        mine = list(dict.fromkeys(images))[self.share.rank :: self.share.processes]
        there, todo = len(set(images)) - len(made.missing(images)), len(made.missing(mine))
        if self.share.first:
            if not self.told:
                self.measured.say(self.used)
                self.told.append(self.measured.name)
            kept = f"{there:,} of {many(len(set(images)), 'images')} are there"
            print(f"{kept}; they are kept in {printable(str(made.folder))}", file=sys.stderr)
        notes = {**written_by(self.options.model, self.pipe), "settings": settings.changed()}
        with progress_bar(steps * todo) as bar:
            drawn: Draw = draw(bar.update)
            made.make(images, drawn, self.options.batch_size, share=self.share, notes=notes)
        if self.share.first and self.share.processes > 1:
            with progress_bar(len(set(images))) as bar:
                made.wait(images, bar.update)

    def features(self, extractor: "Extractor", batches: "Iterator[Tensor]", count: int) -> "Tensor":
        """Features (N, D) of `count` images, computed or kept from before."""
        from unclip.evaluation.features.kept import kept_features

        with progress_bar(count) as bar:
            return kept_features(extractor, batches, self.options.images / "features", bar.update)

    def real(self) -> "list[Tensor]":
        """The first images themselves (3, H, H) uint8, in memory."""
        from unclip.pixels import to_uint8

        return [one for batch in self.sets.images(self.sets.own) for one in to_uint8(batch)]

    def all_of(self, made: "Generated", images: "Sequence[Wanted]") -> "Tensor":
        """Made images (N, 3, H, W) in [-1, 1], in memory."""
        import torch

        return torch.cat(list(made.read(images)))

    def seen(self, made: "Generated", extractor: "Extractor") -> "Seen":
        """Features of the generated images, and of the real ones that they are held against."""
        from unclip.evaluation.studies.quality import Seen

        sets, wanted = self.sets, self.wanted
        of_made = self.features(extractor, made.read(wanted), len(wanted))
        others = self.features(extractor, sets.images(sets.reference), len(sets.reference))
        own = None
        if sets.against == "others":
            own = self.features(extractor, sets.images(sets.own), len(sets.own))
        return Seen(extractor, of_made, others, own)

    def texts(self, name: str) -> "Tensor | None":
        """z_t of the captions (N, D) by the CLIP whose features those of this name are; None where
        they are of no CLIP that has a text tower here."""
        from unclip.evaluation.metrics.retrieval import embed_captions
        from unclip.stages.conditioning import FrozenCLIP
        from unclip.storage.folder import ModelFolder

        if name != CLIP:
            return None
        clip, other = self.pipe.clip, self.options.clip
        if other is not None:
            clip = FrozenCLIP.load(ModelFolder(other)).to(self.pipe.device)
        return embed_captions(clip, self.sets.captions).cpu()

    # ---- what is told -----------------------------------------------------------------------

    @property
    def conditions(self) -> "Conditions":
        """What numbers of the captions' images are measured under."""
        from unclip.data.registry import format_of
        from unclip.evaluation.report import Conditions, crop_of, filter_of

        drawn = format_of(self.options.named).ground_truth
        size = int(next(self.sets.images(range(1)))[0].shape[-1])
        against = self.sets.said if self.options.captioned else "the images themselves"
        return Conditions(
            self.sets.count, against, len(self.sets.reference),
            f"{self.measured.split} of {self.measured.name}",
            filter_of(self.measured.source.check()), crop_of(size, drawn),
            self.settings.size or self.pipe.sizes[-1],
        )  # fmt: skip

    def begin(self, title: str) -> "Report":
        """A report of what is open."""
        from unclip.device.precision import name_of
        from unclip.evaluation.generated import fingerprint
        from unclip.evaluation.report import Report

        about = {
            **origin(self.options),
            **self.measured.facts(self.used),
            "precision": name_of(self.pipe.dtype),
            "size": self.settings.size or self.pipe.sizes[-1],
            "model_fingerprint": fingerprint(self.model),
        }
        notes = self.sets.notes() if self.options.captioned else []
        return Report(f"{title}: {self.pipe.name}", about, notes=notes)

    def sheet(self, made: "Generated") -> "Sheet":
        """Real images beside those that were made for their captions."""
        from unclip.evaluation.report import Sheet
        from unclip.pixels import to_uint8

        shown = self.wanted[:SHOWN]
        real = [one for batch in self.sets.images(range(len(shown))) for one in to_uint8(batch)]
        rows = [(one.caption, [real[k], made.pixels(one)]) for k, one in enumerate(shown)]
        return Sheet("Captions, their real images, and generated ones", ("real", "generated"), rows)


class Told(Protocol):
    """Flags of what leaves numbers behind."""

    @property
    def output(self) -> Path | None: ...
    @property
    def report(self) -> Path | None: ...


def finish(
    report: "Report", options: Told, more: Mapping[str, Any] | None = None, table: bool = True
) -> None:
    """Print the numbers and what limits them; write the files that were named.

    Args:
        more: for the JSON file, beside the report.
        table: whether the numbers are yet to be printed.
    """
    if table:
        print_table(report.rows())
    limits = [f"{one.metric}: {one.found.note}" for one in report.numbers if one.found.note]
    for note in dict.fromkeys([*report.notes, *limits]):
        print(f"note: {note}", file=sys.stderr)
    if options.output is not None:
        from unclip.files import write_json

        content = {**report.to_dict(), **(more or {})}
        print(f"written to {write_file(options.output, lambda path: write_json(path, content))}")
    if options.report is not None:
        from unclip.evaluation.html import write_html

        print(f"written to {write_file(options.report, lambda path: write_html(report, path))}")
