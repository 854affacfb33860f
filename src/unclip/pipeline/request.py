"""What a call asks for and gives, checked and converted: settings, prompts, noise, images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unclip.config import suggest
from unclip.data.transforms import read_pixels, to_pil
from unclip.diffusion.prediction import Noise
from unclip.diffusion.samplers import noise_from

MOST_IMAGES = 1000  # of one call: more is a mistake, or a loop that should write as it goes
MOST_CHARACTERS = 10_000
GUIDANCE_KINDS = ("branches", "distilled")
PRIORS = ("diffusion", "autoregressive")
OUTPUT_TYPES = ("pil", "np", "pt")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Settings:
    """Everything but the prompt and the seed that decides an image.

    None is the preset's value, else the model's own. `eta` does not matter to DDPM.

    `prior_num_candidates`: how many z_i the prior draws for an image, to keep the one closest to
    z_t; None is the model's own number, which is 1 where the folder does not say.

    `guidance_interval`: the lowest and the highest noise level σ = sqrt((1 - ᾱ) / ᾱ) at which
    diffusion prior and decoder are guided; (0, inf) is all. `reuse`: decoder and upsamplers compute
    their deep features at every so many steps; 1 is all. `guidance_kind`: whether the decoder
    computes both "branches" of guidance, or a student what it has learned of them ("distilled"), at
    half the cost. All three are described in docs/sampling.md.

    `prior`: "diffusion" or "autoregressive"; None is the model's own choice, else the diffusion
    prior where there is one. An autoregressive one takes as many steps as z_i has codes.

    `resamples`: of inpainting, how often the decoder's steps are gone through (RePaint's r); None
    is 1 for a decoder with mask channels, else 5. The upsamplers' are gone through once.
    """

    steps: str = "default"
    prior_num_inference_steps: int | None = None
    decoder_num_inference_steps: int | None = None
    super_res_num_inference_steps: int | None = None
    prior_guidance_scale: float | None = None
    decoder_guidance_scale: float | None = None
    sampler: str | None = None
    eta: float | None = None
    size: int | None = None
    prior_num_candidates: int | None = None
    prior: str | None = None
    guidance_interval: tuple[float, float] | None = None
    guidance_kind: str | None = None
    reuse: int | None = None
    resamples: int | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("prior", self.prior, PRIORS),
            ("kind of guidance", self.guidance_kind, GUIDANCE_KINDS),
        ):
            if value is not None and value not in known:
                raise ValueError(f"unknown {name} {value!r}{suggest(value, known)}")

    def changed(self) -> dict[str, Any]:
        """The values that differ from the defaults, for the image's notes."""
        return {
            name: value
            for name, value in vars(self).items()
            if value != type(self).__dataclass_fields__[name].default
        }

    def with_values(self, overrides: dict[str, Any]) -> "Settings":
        """These settings with some fields given by name; `ValueError` for an unknown name."""
        known = type(self).__dataclass_fields__
        for key in overrides:
            if key not in known:
                raise ValueError(f"unknown argument {key!r}{suggest(key, known)}")
        return replace(self, **overrides)


@dataclass(frozen=True)
class Output:
    """What a call made: N images, prompts repeated for each, and the seed of each image."""

    images: Any  # list of PIL images, (N, H, W, 3) array in [0, 1], or (N, 3, H, W) in [-1, 1]
    prompts: list[str] = field(default_factory=list)
    seeds: list[int | None] = field(default_factory=list)


def _listed(given: Any) -> list[Any]:
    """Several as a list; anything else as the only one in it."""
    several = isinstance(given, Sequence) and not isinstance(given, str)
    return list(given) if several else [given]


def check_prompts(prompt: str | Sequence[str]) -> list[str]:
    """A list of usable prompts, or a ValueError that says what is wrong with one."""
    prompts: list[str] = _listed(prompt)
    if not prompts:
        raise ValueError("there is no prompt: say what the image should show")
    for text in prompts:
        if not isinstance(text, str):
            raise ValueError(f"a prompt must be a string, not {type(text).__name__}")
        if not text.strip():
            raise ValueError("the prompt is empty: say what the image should show")
        if len(text) > MOST_CHARACTERS:
            raise ValueError(
                f"the prompt has {len(text):,} characters; the limit is {MOST_CHARACTERS:,}"
            )
        control = _CONTROL.search(text)
        if control:
            raise ValueError(
                f"the prompt holds the control character U+{ord(control[0]):04X}; remove it"
            )
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise ValueError("the prompt is not valid Unicode text")
    return prompts


def check_images(image: Image.Image | Sequence[Image.Image]) -> list[Image.Image]:
    """A list of Pillow images, or a ValueError that says what came instead."""
    images: list[Image.Image] = _listed(image)
    for one in images:
        if not isinstance(one, Image.Image):
            raise ValueError(f"an image must be a Pillow image, not {type(one).__name__}")
        read_pixels(one)
    if not images:
        raise ValueError("there is no image: give the one to vary")
    return images


def check_count(per_prompt: int, prompts: int) -> int:
    """The number of images per prompt, if it is sensible."""
    if per_prompt < 1:
        raise ValueError(f"{per_prompt} images were asked for; ask for at least 1")
    if per_prompt * prompts > MOST_IMAGES:
        raise ValueError(
            f"{per_prompt * prompts:,} images were asked for at once; the limit is {MOST_IMAGES:,}"
        )
    return per_prompt


def noise_for(
    generator: torch.Generator | Sequence[torch.Generator] | None, seeds: list[int], rows: slice
) -> Noise:
    """Noise for the images `rows`: the caller's, or from a generator for each seed."""
    if isinstance(generator, torch.Generator):
        return noise_from(generator)
    if generator is not None and len(generator) != len(seeds):
        raise ValueError(f"{len(generator)} generators were given for {len(seeds)} images")
    if generator is None:
        streams = [torch.Generator().manual_seed(seed % 2**64) for seed in seeds[rows]]
    else:
        streams = list(generator[rows])

    def noise(x: Tensor) -> Tensor:
        # The prior draws several candidates per image: rows of one image follow each other.
        candidates = len(x) // len(streams)
        return noise_from([stream for stream in streams for _ in range(candidates)])(x)

    return noise


def convert(images: Tensor, output_type: str) -> Any:
    """Images (N, 3, H, W) in [-1, 1] as one of `OUTPUT_TYPES`."""
    images = images.float().clamp(-1, 1).cpu()
    if output_type == "pt":
        return images
    if output_type == "np":
        array: np.ndarray[Any, Any] = ((images + 1) / 2).permute(0, 2, 3, 1).numpy()
        return array
    return [to_pil(image) for image in images]
