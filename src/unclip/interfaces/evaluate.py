"""`unclip evaluate clip|composition`: a model measured, as a table and as JSON."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from unclip import __version__
from unclip.config import suggest, to_mapping
from unclip.data.emoji_scene import WorldConfig
from unclip.interfaces.generate import check_folder, progress_bar
from unclip.interfaces.options import parse

if TYPE_CHECKING:
    from unclip.evaluation.composition import Composition, Generate
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.request import Settings

# The world of the bundled model; a model that knows more is measured on more.
WORLD = WorldConfig(
    max_objects=2, sizes=("medium", "large"), textures=("plain",), styles=("plain",)
)
PAIRS = 4  # sets of pairs that retrieval is averaged over, where the data has so many


@dataclass(frozen=True)
class EvaluateClip:
    """Find the right caption among n, and the right image: recall, and zero-shot classes."""

    model: str | None = None
    """A model folder, or a model's name on the Hugging Face Hub; the bundled model if left out."""
    data: str = "emoji:shapes"
    """The built-in world (its held-out scenes), or a folder of captioned images (all of it)."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 256
    """Candidates that each query is held against."""
    size: int | None = None
    """Pixels of the images' side; the decoder's if left out, or CLIP's own."""
    world: WorldConfig = field(default_factory=lambda: WORLD)
    """Which scenes of the built-in world."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """A .json file for the numbers."""
    device: str = "auto"


@dataclass(frozen=True)
class EvaluateComposition:
    """Generate images for captions of held-out scenes, and say how often they are right."""

    model: str | None = None
    """A model folder, or a model's name on the Hugging Face Hub; the bundled model if left out."""
    judge: Path | None = None
    """A folder with a judge; the bundled judge if left out."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 500
    """Scenes."""
    seed: int = 0
    """Of the first image; each image has its own."""
    steps: Literal["fast", "default", "paper"] = "default"
    guidance: float | None = None
    """Guidance scale of the decoder; the model's own if left out."""
    prior_guidance: float | None = None
    prior: Literal["diffusion", "autoregressive"] | None = None
    """Which prior draws the embeddings, where the model has both; its own choice if left out."""
    sampler: Literal["ddpm", "ddim", "dpm++"] | None = None
    size: int | None = None
    """Pixels of a side, one of the model's sizes; the largest if left out."""
    world: WorldConfig = field(default_factory=lambda: WORLD)
    """Which scenes of the built-in world."""
    trust: bool = False
    """Report even if the judge errs in more than 3 % of real scenes."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """A .json file for the numbers and what they were measured with."""
    batch_size: int = 32
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    device: str = "auto"


def run(arguments: Sequence[str]) -> int:
    runs: dict[str, Callable[[Sequence[str]], int]] = {
        "clip": run_clip,
        "composition": run_composition,
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
    from unclip.data.sources import open_source
    from unclip.evaluation.retrieval import clip_retrieval, world_zero_shot
    from unclip.models.folder import ModelFolder, bundled
    from unclip.models.hub import resolve_model
    from unclip.models.precision import device_named
    from unclip.stages.conditioning import CLIP_COMPONENTS, FrozenCLIP

    name = options.model
    path = bundled("model") if name is None else resolve_model(name, None, None, CLIP_COMPONENTS)
    folder = ModelFolder(path)
    device = device_named(options.device)
    clip = FrozenCLIP.load(folder).to(device)
    if clip.image_encoder is None:
        raise ValueError(f"{folder.path} has no image_encoder, so there is nothing to retrieve")
    size = options.size or _native_size(folder, clip.image_encoder.config.image_size)
    world = replace(options.world, size=max(32, size), split="held-out")
    if options.data.split(":")[0] == "emoji":
        given = ("size", "seed", "split", *(["kinds"] if ":" in options.data else []))
        more = {key: value for key, value in to_mapping(world).items() if key not in given}
        source = open_source(
            options.data, size=world.size, seed=world.seed, split=world.split, world=more
        )
    else:
        source = open_source(options.data, size=size, split="all")
    pools = max(1, min(PAIRS, len(source) // max(1, options.n)))
    found = clip_retrieval(clip, source, options.n, pools)
    report = {**_origin(options), "size": size, "retrieval": found.to_dict()}
    rows = [("task", "right")]
    for name, rates in (
        ("text → image", found.text_to_image),
        ("image → text", found.image_to_text),
    ):
        rows += [(f"{name}, among {found.among}, first {k}", str(r)) for k, r in rates.items()]
    if options.data == "emoji:shapes":
        classes = world_zero_shot(clip, world)
        report["zero_shot"] = {name: one.to_dict() for name, one in classes.items()}
        rows += [
            (f"zero-shot {name}, of {one.classes}", str(one.accuracy))
            for name, one in classes.items()
        ]
    _tell(rows, report, options.output)
    return 0


def run_composition(arguments: Sequence[str]) -> int:
    options = parse(EvaluateComposition, "evaluate composition", arguments)
    _check_output(options.output)
    from unclip.evaluation.composition import evaluate_model
    from unclip.evaluation.judge import load_judge
    from unclip.models.precision import name_of
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.request import Settings

    judge = load_judge(options.judge)
    pipe = Pipeline.from_pretrained(options.model, dtype=options.precision, device=options.device)
    judge.to(pipe.device)
    settings = Settings(
        options.steps,
        prior_guidance_scale=options.prior_guidance,
        decoder_guidance_scale=options.guidance,
        sampler=options.sampler,
        size=options.size,
        prior=options.prior,
    )
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


def generator(
    pipe: "Pipeline", settings: "Settings", batch_size: int, progress: Callable[[int], Any]
) -> "Generate":
    """(captions, seed) → images (N, 3, H, W), each image from a seed of its own."""
    import torch

    def generate(captions: list[str], seed: int) -> torch.Tensor:
        seeds = range(seed, seed + len(captions))
        made = pipe(
            captions,
            generator=[torch.Generator().manual_seed(one) for one in seeds],
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
        if output.is_dir():
            raise ValueError(f"{output} is a folder; give the name of a .json file")
        check_folder(output.parent)


def _tell(rows: Sequence[tuple[str, ...]], report: dict[str, Any], output: Path | None) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    if output is not None:
        from unclip.models.folder import write_text

        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        print(f"written to {output}")
