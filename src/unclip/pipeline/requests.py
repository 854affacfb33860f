"""What calls that make images have in common: a request, its parts that are computed at once, and
what it gives.

Shapes: N images, H × W pixels.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import torch
from torch import Tensor

from unclip.checks import listed, of_kind, seed_after, shown
from unclip.config import Between, Checked, Count, nearest, one_of
from unclip.data.transforms import to_pil
from unclip.device.memory import kept_memory
from unclip.device.threads import side_by_side
from unclip.diffusion import samplers
from unclip.diffusion.prediction import Noise
from unclip.pipeline.hooks import TENSORS, Hooks
from unclip.pipeline.inputs import check_count
from unclip.pipeline.noise import STARTED, begun_with, check_latents, cut, noise_for
from unclip.pipeline.settings import Settings, joined, known
from unclip.pipeline.translation import translated

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

GPU_BATCH = 16
OutputType = Literal["pil", "np", "pt", "tensor", "latent"]


@dataclass(frozen=True)
class Output:
    """What a call made: N images, prompts repeated for each, and the seed of each image."""

    images: Any  # a list of PIL images, or as `output_type` says
    prompts: list[str] = field(default_factory=list)
    seeds: list[int | None] = field(default_factory=list)

    def to_tuple(self) -> tuple[Any]:
        """What `return_dict=False` gives, as diffusers' outputs do: the images alone."""
        return (self.images,)

    def __getitem__(self, key: int | str | slice) -> Any:
        """`out[0]` and `out["images"]` are the images, as of diffusers' outputs."""
        return vars(self)[key] if isinstance(key, str) else self.to_tuple()[key]


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
    output_type: OutputType = "pil"
    return_dict: bool = True
    callback_on_step_end: Any = None
    callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",)
    prior_latents: Any = None
    decoder_latents: Any = None
    super_res_latents: Any = None
    batch_size: Count | None = None
    side_by_side: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generator is not None and self.seed:
            raise ValueError("seed and generator both say what noise is drawn: give one of them")
        for one in [] if self.generator is None else listed(self.generator):
            of_kind(one, torch.Generator, "generator", "a torch.Generator or a list of them")
        if not (self.callback_on_step_end is None or callable(self.callback_on_step_end)):
            raise ValueError(
                "callback_on_step_end must be a function, not "
                f"{type(self.callback_on_step_end).__name__}"
            )
        for name in self.callback_on_step_end_tensor_inputs:
            one_of(name, "tensor of callback_on_step_end", TENSORS)
        for name, given in self.latents.items():
            of_kind(given, Tensor, name, "a tensor")

    @classmethod
    def of(
        cls,
        settings: Settings | None,
        overrides: dict[str, Any],
        sizes: Sequence[int] | None = None,
        **common: Any,
    ) -> "Request":
        """The request of a call: its settings, knobs by name, and the arguments of all calls.

        Args:
            overrides: knobs, and arguments of all calls that are not in `common`.
            sizes: of square images, see `translated`.
        """
        overrides = translated(overrides, sizes)
        _check_slips(overrides)
        common |= {name: overrides.pop(name) for name in _common() & overrides.keys()}
        return cls(joined(settings, overrides), **common)

    @property
    def latents(self) -> dict[str, Tensor]:
        """The noise that stages are to begin with, by argument."""
        names = [f"{stage}_latents" for stage in STARTED]
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}

    def seeds(self, prompts: int, count: int) -> list[int]:
        """Of `count` images for each prompt."""
        return [seed_after(self.seed, k) for _ in range(prompts) for k in range(count)]

    def made(
        self,
        pipe: "Pipeline",
        prompts: list[str],
        count: int,
        draw: Callable[["Part"], Tensor],
        steps: int,
        stages: Sequence[str] = STARTED,
        each: int = 1,
    ) -> Output:
        """`count` images for each prompt, some at a time; when it is interrupted, those begun.

        Args:
            prompts: texts for the output, one for each thing that images are made of.
            draw: makes the images (N, 3, H, W) of a part.
            steps: of all stages for an image, for the progress bar.
            stages: those of `STARTED` that it samples.
            each: candidates that are computed at once for an image.
        """
        seeds = self.seeds(len(prompts), count)
        check_latents(self.latents, pipe, len(seeds), stages, self.settings)
        pipe.check_negative(self.settings, len(prompts))
        pipe._interrupt = False
        batch = max(1, pipe.batch_size_for(self.batch_size) // each)
        if isinstance(self.generator, torch.Generator):
            batch = len(seeds)
        parts, turn = [], threading.Lock()
        with kept_memory(pipe.device), pipe.progress_bar(total=steps * len(seeds)) as bar:
            for first in range(0, len(seeds), batch):
                rows = slice(first, first + batch)
                of = [k // count for k in range(len(seeds))[rows]]
                noise = noise_for(self.generator, seeds, rows)
                starts = cut(self.latents, rows, len(seeds))
                parts.append(Part(pipe, self, of, noise, starts, bar, turn))
            together = self.side_by_side and self.generator is None and pipe.device.type == "cpu"
            made = torch.cat(_drawn(pipe, parts, draw, together))
        known: list[int | None] = [*seeds] if self.generator is None else [None] * len(seeds)
        repeated = [text for text in prompts for _ in range(count)]
        images = convert(made, self.output_type)
        output = Output(images, repeated[: len(made)], known[: len(made)])
        return output if self.return_dict else cast(Output, output.to_tuple())


def _drawn(
    pipe: "Pipeline", parts: Sequence["Part"], draw: Callable[["Part"], Tensor], together: bool
) -> list[Tensor]:
    """Images (N, 3, H, W) of parts, of those that had begun when the call was interrupted."""

    def drawn(part: Part) -> Tensor | None:
        return None if pipe.interrupt else draw(part)

    def stop() -> None:
        pipe._interrupt = True

    if together:
        made = side_by_side([partial(drawn, part) for part in parts], stop)
    else:
        made = [drawn(part) for part in parts]
    return [images for images in made if images is not None]


@dataclass(frozen=True)
class Part:
    """Images of a request that are computed at once.

    Args:
        of: for each of them, the number of the prompt, image or embedding that it is made of.
        noise: draws theirs, from the stream of each.
        starts: x_T that the caller gave for them, by argument.
        bar: shows how far the request is.
        turn: of the parts of a request, one calls the caller's function at a time.
    """

    pipe: "Pipeline"
    request: Request
    of: list[int]
    noise: Noise
    starts: Mapping[str, Tensor]
    bar: Any
    turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def settings(self) -> Settings:
        return self.request.settings.for_images(self.of)

    def hook(self, stage: str) -> samplers.Callback:
        """What a stage's sampler calls after each step: for the caller, and to interrupt."""
        call = self.request.callback_on_step_end
        return Hooks(self.pipe, call, len(self.of), self.bar, self.turn)(stage)

    def noise_of(self, stage: str) -> Noise:
        """What a stage draws: first the x_T that the caller gave for it, if any."""
        name = f"{stage}_latents"
        return begun_with(self.starts.get(name), self.noise, name)


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


def check_arguments(arguments: Mapping[str, Any], sizes: Sequence[int]) -> dict[str, Any]:
    """Of a call's keyword arguments: checked, with the settings among them joined in "settings".

    For calls that have work to do before they hand them on.

    Args:
        sizes: of images that the model makes.

    Raises:
        ValueError: one is unknown, or makes no sense.
    """
    arguments = translated(arguments, sizes)
    common = {name: value for name, value in arguments.items() if name in _common()}
    Request(**common)
    if "num_images_per_prompt" in arguments:
        common["num_images_per_prompt"] = check_count(arguments["num_images_per_prompt"], 1)
    rest = {name: value for name, value in arguments.items() if name not in common}
    settings = joined(rest.pop("settings", None), rest)
    return common | {"settings": settings}


def _common() -> set[str]:
    """Arguments of all calls, beside the settings."""
    return {field.name for field in fields(Request)} - {"settings"}


def _check_slips(overrides: Mapping[str, Any]) -> None:
    """Refuse a name that is nearly that of an argument which is no knob.

    What is near to a knob, or to nothing, `Settings.with_values` refuses.
    """
    knobs, others = set(known().__dataclass_fields__), _common() | {"num_images_per_prompt"}
    for name in overrides.keys() - knobs - others:
        if (near := nearest(name, knobs | others)) in others:
            raise ValueError(f"unknown argument {shown(name)}; did you mean {near!r}?")


def convert(images: Tensor, output_type: str) -> Any:
    """Images (N, 3, H, W) in [-1, 1] as the call's `output_type`; `ValueError` for NaN."""
    images = images.float().clamp(-1, 1).cpu()
    if not bool(images.isfinite().all()):
        raise ValueError("the images hold NaN: weights, latents or embeddings were too large")
    if output_type in ("tensor", "latent"):
        return images
    if output_type == "pil":
        return [to_pil(image) for image in images]
    shares = (images + 1) / 2
    return shares if output_type == "pt" else shares.permute(0, 2, 3, 1).numpy()
