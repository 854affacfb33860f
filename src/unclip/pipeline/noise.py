"""Where the noise of a request comes from: seeds, the caller's generators, or the caller's tensors.

Shapes: N images, M candidates of the prior for each, D embedding width, ... the dimensions of one.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unclip.checks import many
from unclip.diffusion.prediction import Noise
from unclip.diffusion.samplers import noise_from
from unclip.outputs.latents import finite_floats
from unclip.stages.prior import Noisy

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.settings import Settings

STARTED = ("prior", "decoder", "super_res")
"""Stages whose first noise a caller may give, as `prior_latents` and so on."""


def noise_for(
    generator: torch.Generator | Sequence[torch.Generator] | None, seeds: list[int], rows: slice
) -> Noise:
    """Noise for the images `rows`: the caller's, or from a generator for each seed."""
    if isinstance(generator, torch.Generator):
        return noise_from(generator)
    if generator is not None and len(generator) != len(seeds):
        raise ValueError(
            f"{many(len(generator), 'generators were')} given for {many(len(seeds), 'images')}"
        )
    if generator is None:
        streams = [torch.Generator().manual_seed(seed % 2**64) for seed in seeds[rows]]
    else:
        streams = list(generator[rows])
    return of_images(streams)


def of_images(streams: Sequence[torch.Generator]) -> Noise:
    """Noise of which each image draws from a stream of its own."""

    def noise(x: Tensor) -> Tensor:
        # The prior draws several candidates per image: rows of one image follow each other.
        candidates = len(x) // len(streams)
        return noise_from([stream for stream in streams for _ in range(candidates)])(x)

    return noise


def begun_with(start: Tensor | None, noise: Noise, name: str) -> Noise:
    """Noise whose first draw is `start` (N, ...), if there is one: x_T.

    Raises:
        ValueError: when it draws, if the stage begins with another shape.
    """
    waiting = [] if start is None else [start]

    def draw(x: Tensor) -> Tensor:
        if not waiting:
            return noise(x)
        first = waiting.pop()
        if first.shape != x.shape:
            raise ValueError(_misshapen(name, first, tuple(x.shape)))
        return first.to(x)

    return draw


def check_latents(
    latents: Mapping[str, Tensor],
    pipe: "Pipeline",
    images: int,
    stages: Sequence[str],
    settings: "Settings",
) -> None:
    """Refuse x_T that no stage of a call begins with, before anything is computed.

    Args:
        latents: by argument.
        stages: those of `STARTED` that the call samples.

    Raises:
        ValueError: of another stage or shape, or not of floats.
    """
    if not latents:
        return
    shapes: dict[str, tuple[int, ...]] = {}
    shapes["decoder_latents"] = (images, pipe.decoder.space.channels, *[pipe.decoder.side] * 2)
    prior = pipe.prior_for(settings) if "prior" in stages and pipe.decoder.needs_prior else None
    if isinstance(prior, Noisy):
        shapes["prior_latents"] = prior.noise_shape(images, settings.prior_num_candidates)
    else:
        stages = [name for name in stages if name != "prior"]
    if pipe.upsamplers:
        shapes["super_res_latents"] = (images, 3, *[pipe.upsamplers[0].size] * 2)
    for name, given in latents.items():
        if name.removesuffix("_latents") not in stages:
            raise ValueError(f"{name} has no use here: this call does not sample that stage")
        finite_floats(given, name)
        if name in shapes and given.shape != shapes[name]:
            raise ValueError(_misshapen(name, given, shapes[name]))


def cut(latents: Mapping[str, Tensor], rows: slice, images: int) -> dict[str, Tensor]:
    """Of x_T for all images those of some; several rows of an image follow each other."""
    found = {}
    for name, given in latents.items():
        each = len(given) // images
        found[name] = given[rows.start * each : rows.stop * each]
    return found


def _misshapen(name: str, given: Tensor, wanted: tuple[int, ...]) -> str:
    return f"{name} has the shape {tuple(given.shape)}; this call begins with {wanted}"
