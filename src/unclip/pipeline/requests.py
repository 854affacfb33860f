"""What calls that make images have in common: a request, its parts that are computed at once, and
what it gives.

Shapes: N images, H × W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from unclip.checks import listed, many, of_kind, seed_after
from unclip.config import Between, Checked, Count
from unclip.data.transforms import to_pil
from unclip.device.memory import kept_memory
from unclip.diffusion import samplers
from unclip.diffusion.prediction import Noise
from unclip.diffusion.samplers import noise_from
from unclip.pipeline.hooks import Hooks
from unclip.pipeline.inputs import check_count
from unclip.pipeline.settings import Settings, joined

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

GPU_BATCH = 16


@dataclass(frozen=True)
class Output:
    """What a call made: N images, prompts repeated for each, and the seed of each image."""

    images: Any  # list of PIL images, (N, H, W, 3) array in [0, 1], or (N, 3, H, W) in [-1, 1]
    prompts: list[str] = field(default_factory=list)
    seeds: list[int | None] = field(default_factory=list)


@dataclass(frozen=True)
class Request(Checked):
    """What a call asks for beside what the images are of; see `Pipeline.__call__`.

    Seeds are those that torch takes: a negative one is that plus 2**64.

    Raises:
        ValueError: an argument makes no sense.
    """

    settings: Settings = field(default_factory=Settings)
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

    @classmethod
    def of(cls, settings: Settings | None, overrides: dict[str, Any], **common: Any) -> "Request":
        """The request of a call: its settings, knobs by name, and the arguments of all calls."""
        return cls(joined(settings, overrides), **common)

    def seeds(self, prompts: int, count: int) -> list[int]:
        """Of `count` images for each prompt."""
        return [seed_after(self.seed, k) for _ in range(prompts) for k in range(count)]

    def made(
        self, pipe: "Pipeline", prompts: list[str], count: int, draw: Callable[["Part"], Tensor]
    ) -> Output:
        """`count` images for each prompt, some at a time; when it is interrupted, those begun.

        Args:
            prompts: texts for the output, one for each thing that images are made of.
            draw: makes the images (N, 3, H, W) of a part.
        """
        seeds = self.seeds(len(prompts), count)
        pipe._interrupt = False
        batch = pipe.batch_size_for(self.batch_size)
        if isinstance(self.generator, torch.Generator):
            batch = len(seeds)
        images: list[Tensor] = []
        with kept_memory(pipe.device):
            for first in range(0, len(seeds), batch):
                rows = slice(first, first + batch)
                of = [k // count for k in range(len(seeds))[rows]]
                part = Part(pipe, self, of, noise_for(self.generator, seeds, rows))
                if pipe.interrupt:
                    break
                images.append(draw(part))
        made = torch.cat(images)
        known: list[int | None] = [*seeds] if self.generator is None else [None] * len(seeds)
        repeated = [text for text in prompts for _ in range(count)]
        return Output(convert(made, self.output_type), repeated[: len(made)], known[: len(made)])


@dataclass(frozen=True)
class Part:
    """Images of a request that are computed at once.

    Args:
        of: for each of them, the number of the prompt, image or embedding that it is made of.
        noise: draws theirs, from the stream of each.
    """

    pipe: "Pipeline"
    request: Request
    of: list[int]
    noise: Noise

    @property
    def settings(self) -> Settings:
        return self.request.settings

    def hook(self, stage: str) -> samplers.Callback:
        """What a stage's sampler calls after each step: for the caller, and to interrupt."""
        return Hooks(self.pipe, self.request.callback_on_step_end, len(self.of))(stage)


def batch_size_for(pipe: "Pipeline", batch_size: int | None = None) -> int:
    """How many images are computed at once where `batch_size` is asked for.

    Left out, it is 16 on a GPU and 1 on a CPU: computing images together gains little there, and
    sums in another order, which changes images by a rounding error.
    """
    if batch_size is None:
        return 1 if pipe.device.type == "cpu" else GPU_BATCH
    checked = Request(batch_size=batch_size).batch_size
    assert checked is not None
    return checked


def check_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of a call's keyword arguments: checked, with the settings among them joined in "settings".

    For calls that have work to do before they hand them on.

    Raises:
        ValueError: one is unknown, or makes no sense.
    """
    shared = {field.name for field in fields(Request)} - {"settings"}
    common = {name: value for name, value in arguments.items() if name in shared}
    Request(**common)
    if "num_images_per_prompt" in arguments:
        common["num_images_per_prompt"] = check_count(arguments["num_images_per_prompt"], 1)
    rest = {name: value for name, value in arguments.items() if name not in common}
    settings = joined(rest.pop("settings", None), rest)
    return common | {"settings": settings}


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
