"""What evaluations share: flags, the data that is measured on, tables and JSON."""

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import tyro

from unclip import __version__
from unclip.checks import printable, seed_after
from unclip.config import to_mapping
from unclip.data.world.scene import WorldConfig
from unclip.interfaces.cli.numbers import BatchSize
from unclip.interfaces.cli.options import BatchOptions
from unclip.interfaces.cli.outputs import check_file, write_file

if TYPE_CHECKING:
    from unclip.data.sources import Source, Stream
    from unclip.evaluation.judge.network import Judge
    from unclip.evaluation.metrics.composition import Generate
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.settings import Settings
    from unclip.storage.folder import ModelFolder

# The world of the bundled model; a model that knows more is measured on more.
WORLD = WorldConfig(
    max_objects=2, sizes=("medium", "large"), textures=("plain",), styles=("plain",)
)
Split = Literal["held-out", "train", "all"]


@dataclass(frozen=True, kw_only=True)
class Measuring(BatchOptions):
    """Flags for images that are made of scenes to be measured."""

    world: WorldConfig = field(default_factory=lambda: WORLD)
    """Scenes of the built-in world."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Name of a .json file for the numbers and what they were measured with."""
    batch_size: BatchSize = 32
    """Number of images computed at once."""

    def __post_init__(self) -> None:
        check_world(self.world)


@dataclass(frozen=True, kw_only=True)
class Judged(Measuring):
    """Flags for what the judge says of images."""

    judge: Path | None = None
    """Folder with a judge; the bundled judge if left out."""
    trust: bool = False
    """Results even if the judge errs in more than 3 % of real scenes."""

    def open_both(self) -> "tuple[Pipeline, Judge]":
        """The model and the judge, where the model is."""
        from unclip.evaluation.judge.network import load_judge

        judge = load_judge(self.judge)
        pipe = self.open()
        return pipe, judge.to(pipe.device)


def check_world(world: WorldConfig) -> None:
    """Refuse what decides nothing: scenes are held-out ones, of the size that images are made in.

    Raises:
        ValueError: a split or size is asked for.
    """
    world.check_undecided(
        "world", "scenes are those that training holds out, as large as the model's images"
    )


class OnData(Protocol):
    """Flags of what measures any captioned data."""

    @property
    def data(self) -> str: ...
    @property
    def split(self) -> Split | None: ...
    @property
    def world(self) -> WorldConfig: ...
    @property
    def template(self) -> str: ...


def open_folder(
    name: str | None, components: Collection[str], revision: str | None = None,
    variant: str | None = None,
) -> "ModelFolder":  # fmt: skip
    """The model folder that the flags name; of one on the Hub, at least these components."""
    from unclip.storage.folder import ModelFolder, bundled
    from unclip.storage.hub import resolve_model

    where = bundled("model") if name is None else name
    return ModelFolder(resolve_model(where, revision, variant, components))


@dataclass(frozen=True)
class Measured:
    """Data that is measured, in an order in which its first samples stand for all of it.

    Args:
        source: the samples of the split.
        split: "held-out", "train" or "all".
        name: of the data.
        of: how many images the whole of it has; 0 where they have no end.
        why: what is said of the split.
    """

    source: "Source | Stream"
    split: str
    name: str
    of: int = 0
    why: str = ""

    def say(self, used: int) -> None:
        """Say what is measured: `used` of the split's samples."""
        from unclip.data.sources import length

        if not self.why:
            return
        there = length(self.source)
        part = f"{there:,} of {self.of:,} images, " if self.of else ""
        chosen = "all" if self.of and used >= there else f"{used:,} drawn by a fixed seed and"
        print(
            f"split {self.split} of {self.name}: {part}{chosen} measured; {self.why}",
            file=sys.stderr,
        )

    def facts(self, used: int) -> dict[str, Any]:
        """The same for the JSON file."""
        return {"split": self.split, "images": used, **({"of": self.of} if self.of else {})}


def open_measured(
    options: OnData, size: int, model: "ModelFolder", *stages: str, draw: int = 0
) -> Measured:
    """Held-out scenes of the built-in world (of 32 pixels or more), or a folder's images, at `size`
    pixels: what training held out unless a split is asked for, all where that is too little.

    Args:
        stages: whose training counts, all if none is named.
        draw: seed of the images' order, and of the choice of captions.

    Raises:
        ValueError: see `open_source`; or a split is wanted that training did not make.
    """
    from unclip.data.captions import ENDLESS
    from unclip.data.held_out import FEWEST, fraction_of
    from unclip.data.registry import format_of
    from unclip.data.shuffled import shuffled
    from unclip.data.sources import length
    from unclip.interfaces.cli.sources import open_named

    data = options.data
    format_ = format_of(data)

    def opened(split: str, fraction: float = 0.0) -> "Source | Stream":
        more = {"emoji": options.world}
        side = max(size, format_.smallest)
        return open_named(
            data, size=side, split=split, held_out=fraction, options=more,
            template=options.template, **({"seed": draw % 2**64} if draw else {}),
        )  # fmt: skip

    if format_.holds_out == "itself":
        if options.split not in (None, "held-out"):
            raise ValueError(
                "--split is for folders; this data is measured on what it holds out itself"
            )
        return Measured(opened("held-out"), "held-out", data)
    fraction = fraction_of(model, *stages) if format_.holds_out == "fraction" else 0.0
    if options.split not in (None, "all") and not fraction:
        raise ValueError(
            f"the model {model.path} notes no images that its training held out (data.held_out), "
            f"so there is no split {options.split!r}; leave --split out, to measure all"
        )
    source = opened("all", fraction)
    of, held_out = length(source), source.check().held_out if fraction else 0
    split, why = options.split, "the model may have been trained on them"
    if split is None:
        split = "held-out" if held_out >= FEWEST else "all"
        if 0 < held_out < FEWEST:
            why = f"training held out only {held_out}, too few to measure, and saw the others"
    if split != "all":
        source = opened(split, fraction)
    if split == "held-out":
        why = f"the model's training on this folder did not see them (data.held_out {fraction:g})"
    of = of if of < ENDLESS else 0
    return Measured(shuffled(source, draw), split, printable(data), of, why)


def generator(
    pipe: "Pipeline", settings: "Settings", batch_size: int, progress: Callable[[int], Any]
) -> "Generate":
    """(captions, seed) → images (N, 3, H, W), each image from a seed of its own."""
    import torch

    def generate(captions: list[str], seed: int) -> torch.Tensor:
        seeds = [seed_after(seed, k) for k in range(len(captions))]
        made = pipe(
            captions,
            generator=[torch.Generator().manual_seed(one) for one in seeds],
            output_type="tensor",
            settings=settings,
            batch_size=batch_size,
            callback_on_step_end=lambda *step: progress(step[-1]["images"]),
        )
        images: torch.Tensor = made.images
        return images

    return generate


def origin(options: Any) -> dict[str, Any]:
    """What the numbers were measured with."""
    asked = {
        key: _plain(value)
        for key, value in to_mapping(options).items()
        if key not in ("output", "report", "images", "device", "world")
    }
    asked["world"] = to_mapping(options.world) | {"split": "held-out"}
    return {"unclip": __version__, **asked}


def _plain(value: Any) -> Any:
    """Of paths, which JSON does not know, the names."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def check_features(names: Sequence[str]) -> None:
    """Refuse flags that name no network.

    Raises:
        ValueError: there is no name.
    """
    if not names:
        raise ValueError("--features names no network: give clip, another name, or a folder")


def check_output(output: Path | None) -> None:
    """Refuse, before any work, a file for the numbers that could not be written."""
    if output is not None:
        check_file(output)


def tell(rows: Sequence[tuple[str, ...]], report: dict[str, Any], output: Path | None) -> None:
    """Print the table, and write the numbers as JSON where a file was named."""
    print_table(rows)
    if output is not None:
        from unclip.files import write_json

        print(f"written to {write_file(output, lambda path: write_json(path, report))}")


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows as columns, each as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
