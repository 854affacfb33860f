"""What a call asks for and gives, checked and converted: prompts, noise, images."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unclip.checks import listed, of_kind, seed_after, shown, whole_number
from unclip.config import Between, Checked, Count
from unclip.data.transforms import to_pil, upright
from unclip.diffusion.prediction import Noise
from unclip.diffusion.samplers import noise_from
from unclip.pipeline.settings import joined

MOST_IMAGES = 1000  # of one call: more is a mistake, or a loop that should write as it goes
MOST_CHARACTERS = 10_000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Output:
    """What a call made: N images, prompts repeated for each, and the seed of each image."""

    images: Any  # list of PIL images, (N, H, W, 3) array in [0, 1], or (N, 3, H, W) in [-1, 1]
    prompts: list[str] = field(default_factory=list)
    seeds: list[int | None] = field(default_factory=list)


@dataclass(frozen=True)
class Drawing(Checked):
    """What all calls that draw images have in common; see `Pipeline.__call__`.

    Seeds are those that torch takes: a negative one is that plus 2**64.
    """

    seed: Annotated[int, Between(-(2**63), 2**64 - 1)] = 0
    generator: Any = None
    output_type: Literal["pil", "np", "pt"] = "pil"
    callback_on_step_end: Any = None
    batch_size: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in [] if self.generator is None else listed(self.generator):
            of_kind(one, torch.Generator, "generator", "a torch.Generator or a list of them")
        if not (self.callback_on_step_end is None or callable(self.callback_on_step_end)):
            raise ValueError(
                "callback_on_step_end must be a function, not "
                f"{type(self.callback_on_step_end).__name__}"
            )

    def seeds(self, prompts: int, count: int) -> list[int]:
        """Of `count` images for each prompt."""
        return [seed_after(self.seed, k) for _ in range(prompts) for k in range(count)]


def check_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of a call's keyword arguments: checked, with the settings among them joined in "settings".

    For calls that have work to do before they hand them on.

    Raises:
        ValueError: one is unknown, or makes no sense.
    """
    drawing = {field.name for field in fields(Drawing)}
    common = {name: value for name, value in arguments.items() if name in drawing}
    Drawing(**common)
    if "num_images_per_prompt" in arguments:
        common["num_images_per_prompt"] = check_count(arguments["num_images_per_prompt"], 1)
    rest = {name: value for name, value in arguments.items() if name not in common}
    settings = joined(rest.pop("settings", None), rest)
    return common | {"settings": settings}


def check_prompts(prompt: str | Sequence[str]) -> list[str]:
    """A list of usable prompts, or a ValueError that says what is wrong with one."""
    prompts: list[str] = listed(prompt)
    if not prompts:
        raise ValueError("there is no prompt: say what the image should show")
    for text in prompts:
        of_kind(text, str, "a prompt", "a string")
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
    return list(map(str, prompts))


def check_prompt(prompt: str) -> str:
    """The prompt of a call that takes a single one."""
    return check_prompts([prompt])[0]


def check_images(
    image: Image.Image | Sequence[Image.Image], name: str = "an image"
) -> list[Image.Image]:
    """A list of Pillow images, read and upright, or a ValueError that says what came instead."""
    images: list[Image.Image] = [image] if isinstance(image, np.ndarray | Tensor) else listed(image)
    if not images:
        raise ValueError("there is no image: give the one to vary")
    for one in images:
        of_kind(one, Image.Image, name, "a Pillow image")
    return [upright(one) for one in images]


def check_image(image: Image.Image, name: str = "an image") -> Image.Image:
    """The image of a call that takes a single one."""
    return check_images([image], name)[0]


def check_count(per_prompt: int, prompts: int) -> int:
    """The number of images per prompt, if it is sensible."""
    per_prompt = whole_number(per_prompt, "the number of images")
    if per_prompt < 1:
        raise ValueError(f"{shown(per_prompt)} images were asked for; ask for at least 1")
    if per_prompt * prompts > MOST_IMAGES:
        wanted = f"{per_prompt * prompts:,}" if per_prompt < 10**15 else shown(per_prompt)
        raise ValueError(f"{wanted} images were asked for at once; the limit is {MOST_IMAGES:,}")
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
    """Images (N, 3, H, W) in [-1, 1] as the call's `output_type`."""
    images = images.float().clamp(-1, 1).cpu()
    if output_type == "pt":
        return images
    if output_type == "np":
        array: np.ndarray[Any, Any] = ((images + 1) / 2).permute(0, 2, 3, 1).numpy()
        return array
    return [to_pil(image) for image in images]
