"""`unclip evaluate WHAT`: a model measured, as a table and as JSON."""

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from unclip import __version__
from unclip.checks import printable
from unclip.config import suggest, to_mapping
from unclip.data.world.scene import WorldConfig
from unclip.interfaces.cli.numbers import Batch, Count, Fraction, Pixels, Pool, Steps
from unclip.interfaces.cli.options import BatchOptions, PromptOptions, parse
from unclip.interfaces.cli.outputs import check_file, write_file
from unclip.interfaces.cli.streams import progress_bar
from unclip.pipeline.settings import INPAINTING, STAGES

if TYPE_CHECKING:
    from unclip.data.sources import Source, Stream
    from unclip.evaluation.judge.network import Judge
    from unclip.evaluation.metrics.composition import Composition, Generate
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.settings import Settings
    from unclip.storage.folder import ModelFolder

# The world of the bundled model; a model that knows more is measured on more.
WORLD = WorldConfig(
    max_objects=2, sizes=("medium", "large"), textures=("plain",), styles=("plain",)
)
Split = Literal["held-out", "train", "all"]
PAIRS = 4  # sets of pairs that retrieval is averaged over, where the data has so many


@dataclass(frozen=True)
class EvaluateClip:
    """Find the right caption among n, and the right image: recall, zero-shot classes, and whether
    captions with the colours swapped or the relation inverted are told from the true one."""

    model: str | None = None
    """A model folder, or hf:owner/model on the Hugging Face Hub; the bundled model if left out."""
    data: str = "emoji:shapes"
    """The built-in world (its held-out scenes), or a folder of captioned images."""
    split: Split | None = None
    """Of the folder's images; if left out, what training held out (data.held_out), else all."""
    n: Annotated[Pool, tyro.conf.arg(aliases=["-n"])] = 256
    """Candidates that each query is held against; all pairs, where there are fewer."""
    size: Pixels | None = None
    """Pixels of the images' side; the decoder's if left out, or CLIP's own."""
    world: WorldConfig = field(default_factory=lambda: WORLD)
    """Which scenes of the built-in world."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """A .json file for the numbers."""
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Measuring(BatchOptions):
    """Flags for images that are made of scenes to be measured."""

    world: WorldConfig = field(default_factory=lambda: WORLD)
    """Which scenes of the built-in world."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """A .json file for the numbers and what they were measured with."""
    batch_size: Batch = 32


@dataclass(frozen=True, kw_only=True)
class Judged(Measuring):
    """Flags for what the judge says of images."""

    judge: Path | None = None
    """A folder with a judge; the bundled judge if left out."""
    trust: bool = False
    """Report even if the judge errs in more than 3 % of real scenes."""

    def open_both(self) -> "tuple[Pipeline, Judge]":
        """The model and the judge, where the model is."""
        from unclip.evaluation.judge.network import load_judge

        judge = load_judge(self.judge)
        pipe = self.open()
        return pipe, judge.to(pipe.device)


@dataclass(frozen=True, kw_only=True)
class EvaluateComposition(Judged, PromptOptions):
    """Generate images for captions of held-out scenes, and say how often they are right."""

    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 500
    """Scenes."""


@dataclass(frozen=True, kw_only=True)
class EvaluateFid(Measuring, PromptOptions):
    """Generate images for captions, and measure how far they are from real ones: the Fréchet
    distance of their CLIP embeddings."""

    data: str = "emoji:shapes"
    """The built-in world (its held-out scenes), or a folder of captioned images."""
    split: Split | None = None
    """Of the folder's images; if left out, what training held out (data.held_out), else all."""
    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 1000
    """Images generated, for as many captions; they are held against the real images of as many
    others. Fewer give a larger distance."""
    clip: Path | None = None
    """A model folder whose CLIP measures, to compare models; the model's own if left out."""


@dataclass(frozen=True, kw_only=True)
class EvaluateEdits(Judged):
    """Edit, vary and blend held-out scenes of one object, and say what the judge sees of it."""

    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 200
    """Scenes; each is edited in one attribute, the three in turn."""
    theta: tuple[Fraction, ...] = (0.25, 0.35, 0.5)
    """How far edits go; of several, the table shows the best one for each attribute."""
    invert_steps: Steps = 50
    """Steps of the inversion, and of decoding what it found."""


@dataclass(frozen=True, kw_only=True)
class EvaluateInpainting(Judged, PromptOptions):
    """Hide one of the two objects of held-out scenes, repaint it for the scene's caption, and say
    what the judge sees, and how far the image jumps at the border."""

    stages: ClassVar[tuple[str, ...]] = (*STAGES, INPAINTING)
    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 200
    """Scenes."""


def run(arguments: Sequence[str]) -> int:
    runs: dict[str, Callable[[Sequence[str]], int]] = {
        "clip": run_clip,
        "composition": run_composition,
        "fid": run_fid,
        "edits": run_edits,
        "inpainting": run_inpainting,
    }
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: unclip evaluate {'|'.join(runs)} [--model DIR] …")
        return 0 if words else 2
    name = words.pop(0)
    if name not in runs:
        raise ValueError(f"unknown evaluation {name!r}{suggest(name, runs)}")
    return runs[name](words)


def run_clip(arguments: Sequence[str]) -> int:
    options = parse(EvaluateClip, "evaluate clip", arguments)
    _check_output(options.output)
    from unclip.data.sources import length
    from unclip.data.world.source import WorldSource
    from unclip.device.precision import device_named
    from unclip.evaluation.metrics.retrieval import (
        clip_retrieval,
        world_preferences,
        world_zero_shot,
    )
    from unclip.stages.conditioning import CLIP_COMPONENTS, FrozenCLIP

    folder = _folder(options.model, CLIP_COMPONENTS)
    device = device_named(options.device)
    clip = FrozenCLIP.load(folder).to(device)
    if clip.image_encoder is None:
        raise ValueError(f"{folder.path} has no image_encoder, so there is nothing to retrieve")
    size = options.size or _native_size(folder, clip.image_encoder.config.image_size)
    source, split = _source(options, size, folder, "clip")
    n = min(options.n, length(source))
    if n < options.n:
        print(f"{n} pairs are all there are: each is held against these, not {options.n}")
    pools = max(1, min(PAIRS, length(source) // max(1, n)))
    found = clip_retrieval(clip, source, n, pools)
    report = {**_origin(options), "split": split, "size": size, "retrieval": found.to_dict()}
    rows = [("task", "right")]
    for name, rates in (
        ("text → image", found.text_to_image),
        ("image → text", found.image_to_text),
    ):
        rows += [(f"{name}, among {found.among}, first {k}", str(r)) for k, r in rates.items()]
    if isinstance(source, WorldSource) and source.config.kinds == ("shapes",):
        classes = world_zero_shot(clip, source.config)
        report["zero_shot"] = {name: one.to_dict() for name, one in classes.items()}
        rows += [
            (f"zero-shot {name}, of {one.classes}", str(one.accuracy))
            for name, one in classes.items()
        ]
        preferences = world_preferences(clip, source.config)
        report["preferences"] = {name: rate.to_dict() for name, rate in preferences.items()}
        rows += [
            (f"true caption, not with {wrong}", str(preferences[name]))
            for name, wrong in (
                ("colours", "its colours swapped"),
                ("relation", "its relation inverted"),
            )
        ]
    _tell(rows, report, options.output)
    return 0


def run_composition(arguments: Sequence[str]) -> int:
    options = parse(EvaluateComposition, "evaluate composition", arguments)
    _check_output(options.output)
    from unclip.device.precision import name_of
    from unclip.evaluation.metrics.composition import evaluate_model

    settings, (pipe, judge) = options.settings(), options.open_both()
    with progress_bar(pipe.evaluations(settings) * options.n) as bar:
        generate = generator(pipe, settings, options.batch_size, bar.update)
        result = evaluate_model(
            generate, judge, options.world, options.n, options.batch_size, options.seed,
            options.trust,
        )  # fmt: skip
    report = {**_origin(options), "precision": name_of(pipe.dtype), **result.to_dict()}
    rows: list[tuple[str, ...]] = [("right", "generated", "real, by the judge")]
    rows += _side_by_side(result.generated, result.real)
    _tell(rows, report, options.output)
    return 0


def run_fid(arguments: Sequence[str]) -> int:
    options = parse(EvaluateFid, "evaluate fid", arguments)
    _check_output(options.output)
    from unclip.device.precision import name_of
    from unclip.evaluation.metrics.fid import evaluate_fid
    from unclip.stages.conditioning import FrozenCLIP
    from unclip.storage.folder import ModelFolder

    settings, pipe = options.settings(), options.open()
    clip = pipe.clip
    if options.clip is not None:
        clip = FrozenCLIP.load(ModelFolder(options.clip)).to(pipe.device)
    if clip.image_encoder is None:
        raise ValueError("the model has no image_encoder to compare images with; give --clip DIR")
    size = settings.size or pipe.sizes[-1]
    model = _folder(options.model, (), options.revision, options.variant)
    source, split = _source(options, size, model)
    with progress_bar(pipe.evaluations(settings) * options.n) as bar:
        generate = generator(pipe, settings, options.batch_size, bar.update)
        found = evaluate_fid(clip, generate, source, options.n, options.batch_size, options.seed)
    report = {**_origin(options), "split": split, "precision": name_of(pipe.dtype), "size": size}
    n = found.images
    rows = [
        (f"{n} generated images, to {n} real ones of other captions", f"{found.generated:.4f}"),
        ("the real images of the same captions, to those", f"{found.real:.4f}"),
    ]
    _tell(rows, {**report, "fid": found.to_dict()}, options.output)
    return 0


def _folder(
    name: str | None, components: Collection[str], revision: str | None = None,
    variant: str | None = None,
) -> "ModelFolder":  # fmt: skip
    """The model folder that the flags name; of one on the Hub, at least these components."""
    from unclip.storage.folder import ModelFolder, bundled
    from unclip.storage.hub import resolve_model

    if name is None:
        return ModelFolder(bundled("model"))
    return ModelFolder(resolve_model(name, revision, variant, components))


def _source(
    options: EvaluateClip | EvaluateFid, size: int, model: "ModelFolder", *stages: str
) -> "tuple[Source | Stream, str]":
    """Held-out scenes of the built-in world (of 32 pixels or more), or a folder's images, at `size`
    pixels; and their split.

    Args:
        stages: whose training counts, all if none is named.

    Raises:
        ValueError: see `open_source`; or a split is wanted that training did not make.
    """
    from unclip.data.captions import ENDLESS
    from unclip.data.held_out import fraction_of
    from unclip.data.registry import format_of, open_source
    from unclip.data.sources import length

    data = options.data
    format_ = format_of(data)

    def opened(split: str, fraction: float = 0.0) -> "Source | Stream":
        more = {"emoji": options.world}
        side = max(size, format_.smallest)
        return open_source(data, size=side, split=split, held_out=fraction, options=more)

    if format_.holds_out == "itself":
        if options.split not in (None, "held-out"):
            raise ValueError(
                "--split is for folders; this data is measured on what it holds out itself"
            )
        return opened("held-out"), "held-out"
    fraction = fraction_of(model, *stages) if format_.holds_out == "fraction" else 0.0
    split = options.split or ("held-out" if fraction else "all")
    if split != "all" and not fraction:
        raise ValueError(
            f"the model {model.path} notes no images that its training held out (data.held_out), "
            f"so there is no split {split!r}; leave --split out, to measure all"
        )
    source = opened(split, fraction)
    if split == "held-out":
        said = f"the {100 * fraction:g} % that the model's training on this folder held out"
    else:
        said = "the model may have been trained on them"
    known = f"{length(source):,} " if length(source) < ENDLESS else ""
    print(f"{known}images of {printable(data)}: {said}", file=sys.stderr)
    return source, split


def run_edits(arguments: Sequence[str]) -> int:
    options = parse(EvaluateEdits, "evaluate edits", arguments)
    _check_output(options.output)
    from unclip.device.precision import name_of
    from unclip.evaluation.studies.edits import evaluate_edits, images_made

    pipe, judge = options.open_both()
    with progress_bar(images_made(options.n, options.theta)) as bar:
        result = evaluate_edits(
            pipe, judge, options.world, options.n, options.theta, options.invert_steps,
            options.settings(), options.batch_size, options.seed, options.trust, bar.update,
        )  # fmt: skip
    report = {**_origin(options), "precision": name_of(pipe.dtype), **result.to_dict()}
    rows: list[tuple[str, ...]] = [("edit", "start", "θ", "changed", "others kept", "both")]
    for start, scores in result.edits.items():
        for name in scores[options.theta[0]]:
            theta = result.best(start, name)
            one = scores[theta][name]
            rates = (one.changed, one.kept, one.success)
            rows.append((name, start, f"{theta:g}", *map(str, rates)))
    _print_table(rows)
    print()
    rows = [("the scene's own", *next(iter(result.variations.values())))]
    for what, kept in (("variation", result.variations), ("blend", result.ends)):
        rows += [(f"{what}, {key}", *map(str, rates.values())) for key, rates in kept.items()]
    _tell(rows, report, options.output)
    return 0


def run_inpainting(arguments: Sequence[str]) -> int:
    options = parse(EvaluateInpainting, "evaluate inpainting", arguments)
    _check_output(options.output)
    from unclip.device.precision import name_of
    from unclip.evaluation.studies.repainting import evaluate_inpainting

    settings, (pipe, judge) = options.settings(), options.open_both()
    with progress_bar(pipe.inpainting_steps(settings) * options.n) as bar:
        result = evaluate_inpainting(
            pipe, judge, options.world, options.n, settings, options.seed, options.trust, bar.update
        )
    report = {**_origin(options), "precision": name_of(pipe.dtype), "scenes": options.n}
    rows = [(name, str(rate)) for name, rate in result.rates().items()]
    rows.append(("jump at the border", f"{result.seam:.1f} of 255; true: {result.true_seam:.1f}"))
    _tell(rows, {**report, **result.to_dict()}, options.output)
    return 0


def generator(
    pipe: "Pipeline", settings: "Settings", batch_size: int, progress: Callable[[int], Any]
) -> "Generate":
    """(captions, seed) → images (N, 3, H, W), each image from a seed of its own."""
    import torch

    def generate(captions: list[str], seed: int) -> torch.Tensor:
        seeds = range(seed, seed + len(captions))
        made = pipe(
            captions,
            generator=[torch.Generator().manual_seed(one % 2**64) for one in seeds],
            output_type="pt",
            settings=settings,
            batch_size=batch_size,
            callback_on_step_end=lambda *step: progress(step[-1]["images"]),
        )
        images: torch.Tensor = made.images
        return images

    return generate


def _side_by_side(generated: "Composition", real: "Composition") -> list[tuple[str, ...]]:
    truth = real.rates()
    return [(name, str(rate), str(truth[name])) for name, rate in generated.rates().items()]


def _native_size(folder: Any, otherwise: int) -> int:
    """The resolution that the model's images begin with."""
    return int(folder.config("decoder")["sample_size"]) if folder.has("decoder") else otherwise


def _origin(options: Any) -> dict[str, Any]:
    """What the numbers were measured with."""
    asked = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in to_mapping(options).items()
        if key not in ("output", "device", "world")
    }
    asked["world"] = to_mapping(options.world) | {"split": "held-out"}
    return {"unclip": __version__, **asked}


def _check_output(output: Path | None) -> None:
    if output is not None:
        check_file(output)


def _tell(rows: Sequence[tuple[str, ...]], report: dict[str, Any], output: Path | None) -> None:
    _print_table(rows)
    if output is not None:
        from unclip.files import write_json

        print(f"written to {write_file(output, lambda path: write_json(path, report))}")


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
