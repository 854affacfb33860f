"""Each sampler and approximation alone, and the presets: what it costs, and what it does to images.

python benchmarks/approximations.py [--model DIR] [-n 100] [--size PIXELS] [--only NAME ...]

Every variant makes images for the captions of the same held-out scenes from the same seeds. Of
them: composition by the judge with 95 % intervals; FID, the Fréchet distance to the real scenes in
CLIP's embeddings; and, for variants that draw no noise after the first, how near they are to DDIM
with many steps from the same noise, as PSNR and as the cosine of CLIP's embeddings, where "many
steps" is among the variants. Approximations are changes of "ddim", which is deterministic, so that
what is changed is one thing. Operations are counted on one image, seconds are medians of single
images with all variants in turn. Prints a Markdown table and appends one JSON object to
benchmarks/results/results.jsonl. With the bundled model all variants take 4 TFLOP a scene: an hour
for 100 scenes on one core. FID wants thousands. Distilled guidance is left out where the model
has no decoder_distilled.

Variants are rows of the table of presets (src/unclip/pipeline/settings.py), with η = 0 where they
are meant to be deterministic; docs/sampling.md explains them.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from common import RESULTS, ROOT, operation_counter, record, synchronise
from unclip.data.world.scene import Scene
from unclip.data.world.world import World
from unclip.device.precision import name_of
from unclip.diffusion.registry import SAMPLERS
from unclip.diffusion.sampling import Sampling
from unclip.evaluation.intervals import Rate
from unclip.evaluation.judge.network import Detections, Judge, judge_images, load_judge
from unclip.evaluation.metrics.composition import Composition, held_out, score
from unclip.evaluation.metrics.frechet import frechet_distance
from unclip.interfaces.cli.evaluations.shared import WORLD, generator
from unclip.networks.pca import Moments
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import PRESETS, STAGES, Preset, Row, Settings
from unclip.pixels import to_signed
from unclip.stages.decoder import DecoderStage
from unclip.stages.diffusion_prior import PriorStage

MANY, PLAIN = "many steps", "ddim"
DDIM = Preset(*({**getattr(PRESETS["default"], name), "sampler": "ddim"} for name in STAGES))
SHOWN = ("exact", "object", "colour", "background", "relation")


def ddim_but(**rows: Row) -> Preset:
    """Plain DDIM with some stages sampled otherwise; what is said of one upsampler is both's."""
    if "super_res" in rows:
        rows["super_res_1024"] = rows["super_res"]
    return replace(DDIM, **rows)


def deterministic_variants(many: tuple[int, int, int]) -> dict[str, Preset]:
    """Each approximation by itself, after the reference with `many` steps and plain DDIM."""
    of = dict(zip(("prior", "decoder", "super_res"), many, strict=True))
    rows = {stage: {"steps": n, "sampler": "ddim"} for stage, n in of.items()}
    variants = {MANY: ddim_but(**rows), PLAIN: DDIM}
    for stage, counts in (
        ("prior", (5, 8, 12)),
        ("decoder", (6, 8, 10, 15)),
        ("super_res", (3, 7)),
    ):
        for n in counts:
            name = f"{stage} dpm++ {n}".replace("_", " ")
            variants[name] = ddim_but(**{stage: {"steps": n, "sampler": "dpm++"}})
    intervals = ((0.0, 5.0), (0.3, math.inf), (0.3, 5.0), (0.5, 3.0), (1.0, math.inf))
    for low, high in intervals:
        interval = {"guidance_interval": (low, high)}
        guided = {stage: getattr(DDIM, stage) | interval for stage in ("prior", "decoder")}
        variants[f"guidance {low:g} to {high:g}"] = ddim_but(**guided)
    for row in (DDIM.decoder, *({"steps": n, "sampler": "dpm++"} for n in (15, 10))):
        name = f"distilled guidance {row['sampler']} {row['steps']}"
        variants[name] = ddim_but(decoder_distilled=row)
    for k in (2, 3):
        variants[f"decoder reuse {k}"] = ddim_but(decoder={**DDIM.decoder, "reuse": k})
        variants[f"super res reuse {k}"] = ddim_but(super_res={**DDIM.super_res, "reuse": k})
    for n in (1, 2, 3):
        variants[f"super res ddim {n}"] = ddim_but(super_res={"steps": n, "sampler": "ddim"})
    return variants


@dataclass
class Made:
    """What a variant has made so far."""

    settings: Settings
    near: bool  # whether it is held against the reference: its start decides its image
    moments: Moments
    found: list[Detections] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)  # mean squared difference of each image
    cosines: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, images: Tensor, z_i: Tensor, judge: Judge) -> None:
        self.found += judge_images(judge, images)
        self.moments.add(z_i)

    def compare(self, images: Tensor, z_i: Tensor, reference: tuple[Tensor, Tensor]) -> None:
        self.squares += (images - reference[0]).square().mean(dim=(1, 2, 3)).tolist()
        self.cosines += F.cosine_similarity(z_i, reference[1]).tolist()


def samplings(pipe: Pipeline, settings: Settings) -> dict[str, Sampling]:
    """How each stage is sampled that makes images of this size."""
    used = len(pipe.upsamplers) if settings.size is None else pipe.sizes.index(settings.size)
    stages = ["prior"] if pipe.decoder.needs_prior else []
    stages += ["decoder", *("super_res", "super_res_1024")[:used]]
    return {stage: pipe.sampling(stage, settings) for stage in stages}


def is_deterministic(pipe: Pipeline, settings: Settings) -> bool:
    """Whether no noise is drawn but the start, so that streams of noise stay in step."""
    if pipe.decoder.needs_prior and not isinstance(pipe.prior_for(settings), PriorStage):
        return False
    return all(
        SAMPLERS[sampling.sampler].order is not None and sampling.eta == 0
        for sampling in samplings(pipe, settings).values()
    )


def evaluations(pipe: Pipeline, settings: Settings) -> dict[str, int]:
    """Network evaluations of each stage for an image, both branches of guidance counted."""
    counts = {}
    for stage, sampling in samplings(pipe, settings).items():
        each = SAMPLERS[sampling.sampler].evaluations  # of a step; of the last one, a single one
        counts[stage] = each * (sampling.steps - 1) + 1
        network = {"prior": pipe.prior_for, "decoder": lambda _: pipe.decoder}.get(stage)
        guided = network(settings) if network else None
        if isinstance(guided, PriorStage | DecoderStage):
            twice = [] if sampling.guidance.distilled else guided.process.plan(sampling).active
            counts[stage] += each * len(twice)
    return counts


def operations(pipe: Pipeline, settings: Settings) -> float:
    """Of one image from its caption."""
    with operation_counter() as counter:
        pipe("a red circle above a blue square", settings=settings, output_type="tensor")
    return float(counter.get_total_flops())


def batches(
    world: World, n: int, size: int, first: int = 0
) -> Iterator[tuple[list[Scene], Tensor]]:
    """Scenes and their true images (N, 3, H, H) in [-1, 1], `size` at a time."""
    for start in range(first, first + n, size):
        scenes = [world.scene(i) for i in range(start, min(start + size, first + n))]
        pixels = torch.stack([torch.from_numpy(world.render(scene)) for scene in scenes])
        yield scenes, to_signed(pixels.permute(0, 3, 1, 2))


def measure(
    pipe: Pipeline, judge: Judge, made: dict[str, Made], world: World, options: argparse.Namespace
) -> dict[str, Any]:
    """Fill `made`; returns what the judge and FID say of the real scenes themselves."""
    scenes: list[Scene] = []
    real, others = Made(Settings(), False, Moments(pipe.clip.width)), Moments(pipe.clip.width)
    steps = sum(pipe.evaluations(one.settings) for one in made.values()) * options.n
    with tqdm(total=steps, unit="step", leave=False, disable=not sys.stderr.isatty()) as bar:
        for part, truth in batches(world, options.n, options.batch_size):
            truth = truth.to(pipe.device)
            real.add(truth, pipe.clip.image(truth), judge)
            captions = [scene.caption for scene in part]
            reference: tuple[Tensor, Tensor] | None = None
            for name, one in made.items():  # the reference, if it is there, comes first
                generate = generator(pipe, one.settings, options.batch_size, bar.update)
                images = generate(captions, options.seed + len(scenes)).to(pipe.device)
                z_i = pipe.clip.image(images)
                one.add(images, z_i, judge)
                if one.near and reference is not None:
                    one.compare(images, z_i, reference)
                if name == MANY:
                    reference = images, z_i
            scenes += part
    for _, truth in batches(world, options.n, options.batch_size, first=options.n):
        others.add(pipe.clip.image(truth.to(pipe.device)))
    for repeat in range(options.repeats):
        for one in made.values():
            synchronise(pipe.device)
            began = time.perf_counter()
            pipe(scenes[0].caption, seed=repeat, settings=one.settings, output_type="tensor")
            synchronise(pipe.device)
            one.seconds.append(time.perf_counter() - began)
    return {"scenes": scenes, "real": real, "others": others}


def numbers(name: str, one: Made, pipe: Pipeline, known: dict[str, Any]) -> dict[str, Any]:
    """One variant's row."""
    composition = score(one.found, known["scenes"])
    squares = statistics.mean(one.squares) if one.squares else math.nan
    return {
        "variant": name,
        "sampling": {k: _plain(v) for k, v in samplings(pipe, one.settings).items()},
        "evaluations": evaluations(pipe, one.settings),
        "operations": operations(pipe, one.settings),
        "seconds": statistics.median(one.seconds) if one.seconds else None,
        "composition": composition.to_dict(),
        "psnr": 10 * math.log10(4 / squares) if squares > 0 else None,
        "cosine": statistics.mean(one.cosines) if one.cosines else None,
        "fid": frechet_distance(one.moments, known["others"]),
    }


def _plain(sampling: Sampling) -> dict[str, Any]:
    guidance = sampling.guidance
    values = {k: v for k, v in vars(sampling).items() if k != "guidance"}
    return values | {f"guidance_{k}": v for k, v in vars(guidance).items() if k != "rescale"}


def table(rows: list[dict[str, Any]], real: dict[str, Any], default: float) -> str:
    """Markdown; operations also as a fraction of the default preset's."""
    head = ["variant", "evaluations", "GFLOP", "of default", "s an image", *SHOWN]
    head += ["PSNR, dB", "cosine", "FID"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [
            row["variant"],
            " + ".join(map(str, row["evaluations"].values())),
            f"{row['operations'] / 1e9:.3g}",
            f"{row['operations'] / default:.3f}",
            "" if row["seconds"] is None else f"{row['seconds']:.3f}",
            *_rates(row["composition"]),
            "" if row["psnr"] is None else f"{row['psnr']:.1f}",
            "" if row["cosine"] is None else f"{row['cosine']:.4f}",
            f"{row['fid']:.4f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    cells = ["real scenes", "", "", "", "", *_rates(real["composition"]), "", ""]
    lines.append(f"| {' | '.join([*cells, format(real['fid'], '.4f')])} |")
    return "\n".join(lines)


def _rates(composition: dict[str, Any]) -> list[str]:
    cells = []
    for name in SHOWN:
        rate = Rate(composition[name]["right"], composition[name]["total"])
        low, high = rate.interval
        cells.append(f"{rate.accuracy:.1%} ({low:.0%} to {high:.0%})" if rate.total else "")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a model folder; the bundled model if left out")
    parser.add_argument("--judge", help="a folder with a judge; the bundled judge if left out")
    parser.add_argument("-n", type=int, default=100, help="held-out scenes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="variants; all if left out")
    parser.add_argument("--list", action="store_true", help="print their names, and stop")
    parser.add_argument("--size", type=int, help="of the images; the model's largest if left out")
    parser.add_argument("--many", nargs=3, type=int, default=(64, 250, 27), metavar="STEPS",
                        help="of prior, decoder and upsampler in the reference")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, help="single images that are timed")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    still = deterministic_variants(tuple(options.many))
    presets = list(PRESETS)
    names = [MANY, *presets, *(name for name in still if name != MANY)]
    if options.list:
        print("\n".join(names))
        return
    unknown = set(options.only or ()) - set(names)
    if unknown:
        parser.error(f"no variant is called {', '.join(sorted(unknown))}; see --list")
    PRESETS.update(still)
    pipe = Pipeline.from_pretrained(options.model, dtype=options.precision, device=options.device)
    judge = load_judge(options.judge).to(pipe.device)
    made = {}
    for name in names:
        if name in still and still[name].decoder_distilled and not pipe.decoder.student:
            continue  # it would be "ddim" again
        if options.only is None or name in options.only:
            settings = Settings(name, eta=0.0 if name in still else None, size=options.size)
            near = is_deterministic(pipe, settings)
            made[name] = Made(settings, near, Moments(pipe.clip.width))
    size = options.size or pipe.sizes[-1]
    world = held_out(replace(WORLD, size=max(32, size)))
    with torch.no_grad():
        known = measure(pipe, judge, made, world, options)
        rows = [numbers(name, one, pipe, known) for name, one in made.items()]
    composition: Composition = score(known["real"].found, known["scenes"])
    distance = frechet_distance(known["others"], known["real"].moments)
    real = {"composition": composition.to_dict(), "fid": distance}
    print(
        f"{options.n} held-out scenes at {size} px, {name_of(pipe.dtype)} on {pipe.device}; PSNR "
        f'and cosine: to "{MANY}" from the same noise; FID: to as many real scenes, others\n'
    )
    print(table(rows, real, operations(pipe, Settings("default", size=options.size))))
    record(
        pipe.device, part="approximations", model=pipe.name, n=options.n, size=size,
        seed=options.seed, precision=name_of(pipe.dtype), rows=rows, real=real,
    )  # fmt: skip
    print(f"\nadded to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
