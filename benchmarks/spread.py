"""How much of the variety within a caption the diffusion prior keeps, by sampler.

python benchmarks/spread.py [MODEL] [--captions 24] [--images 48] [--fid 2000]

For captions of held-out scenes of the built-in world: the variance (trace of the covariance) of
the z_i of real scenes of the caption, which differ in all that it leaves open, and of as many z_i
that the prior draws; and the squared distance of their means. The rows of 25 and 250 steps show
what a fixed variance of β̃ loses in few steps, and what is not the sampler's.

Then FID between the z_i of `--fid` real scenes and as many that the prior draws, one of each
caption, as a multiple of a perfect generator's: of other real scenes of the same captions. That one
goes to 0 with more captions, so multiples are of one number of captions. Prints a Markdown table of
each.
"""

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from unclip.data.world.world import World
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.samplers import noise_from
from unclip.diffusion.sampling import Sampling
from unclip.evaluation.metrics.composition import held_out
from unclip.evaluation.metrics.frechet import fid
from unclip.evaluation.metrics.retrieval import embed_images
from unclip.interfaces.cli.evaluations.shared import WORLD
from unclip.pipeline.pipeline import Pipeline

_BATCH = 250  # captions that the prior draws for at once
VARIANTS = {
    "ddim, η 1, 25": Sampling(25, "ddim", Guidance(1.0), eta=1.0),
    "ddim, η 1, 250": Sampling(250, "ddim", Guidance(1.0), eta=1.0),
    "ddim, η 0, 25": Sampling(25, "ddim", Guidance(1.0)),
    "dpm++, η 0, 8": Sampling(8, "dpm++", Guidance(1.0)),
    "dpm++, η 0, 25": Sampling(25, "dpm++", Guidance(1.0)),
    "dpm++, η 1, 12": Sampling(12, "dpm++", Guidance(1.0), eta=1.0),
    "dpm++, η 1, 25": Sampling(25, "dpm++", Guidance(1.0), eta=1.0),
}


def spread(groups: list[Tensor]) -> float:
    """Mean over captions of the trace of the covariance of their z_i (images, D)."""
    return sum(float(z.var(dim=0).sum()) for z in groups) / len(groups)


def bias(groups: list[Tensor], real: list[Tensor]) -> float:
    """Mean over captions of the squared distance of the means."""
    pairs = zip(groups, real, strict=True)
    return sum(float((a.mean(0) - b.mean(0)).square().sum()) for a, b in pairs) / len(real)


def real_scenes(pipe: Pipeline, world: World, captions: int, images: int) -> list[Tensor]:
    """z_i (images, D) of real scenes of each of the first captions."""
    found = []
    for i in range(captions):
        drawn = [world.render(world.scene(i, again)) for again in range(images)]
        pixels = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in drawn]
        found.append(embed_images(pipe.clip, pixels))
    return found


def print_fid(pipe: Pipeline, world: World, count: int) -> None:
    """The second table."""
    assert pipe.prior is not None
    captions = [world.scene(i).caption for i in range(count)]
    real, others = torch.stack(real_scenes(pipe, world, count, 2)).unbind(1)
    perfect = fid(others, real)
    print(
        f"\n| z_i of {count} captions | candidates | FID to real ones | of a perfect generator's |"
    )
    print("|---|---|---|---|")
    print(f"| other real scenes of the captions | | {perfect} | 1 |", flush=True)
    for name, sampling in VARIANTS.items():
        for candidates in (1, 2):
            made = []
            for start in range(0, count, _BATCH):
                text = pipe.clip.text(captions[start : start + _BATCH])
                noise = noise_from(torch.Generator().manual_seed(start))
                made.append(pipe.prior.sample(text, sampling, noise, candidates=candidates))
            found = fid(torch.cat(made), real)
            print(
                f"| {name} | {candidates} | {found} | {found.value / perfect.value:.2f} |",
                flush=True,
            )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", help="the bundled model if left out")
    parser.add_argument("--captions", type=int, default=24)
    parser.add_argument("--images", type=int, default=48, help="of each caption")
    parser.add_argument("--fid", type=int, default=2000, help="captions that FID is of; 0: none")
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained(options.model, dtype="fp32")
    assert pipe.prior is not None, "the model has no diffusion prior"
    world = held_out(replace(WORLD, size=max(32, pipe.decoder.size)))
    captions = [world.scene(i).caption for i in range(options.captions)]
    real = real_scenes(pipe, world, options.captions, options.images)
    print("| prior | candidates | variance within a caption | squared error of its mean |")
    print("|---|---|---|---|")
    print(f"| real scenes | | {spread(real):.1f} | |", flush=True)
    for name, sampling in VARIANTS.items():
        for candidates in (1, 2):
            made = []
            for i, caption in enumerate(captions):
                text = pipe.clip.text([caption] * options.images)
                noise = noise_from(torch.Generator().manual_seed(i))
                made.append(pipe.prior.sample(text, sampling, noise, candidates=candidates))
            print(
                f"| {name} | {candidates} | {spread(made):.1f} | {bias(made, real):.1f} |",
                flush=True,
            )
    if options.fid:
        print_fid(pipe, world, options.fid)


if __name__ == "__main__":
    main()
