"""The whole model: a caption becomes an embedding, the embedding an image, the image a larger one.

    generate(text) = upsample(decode(prior(text)))

Shapes: N images, D embedding width, H × W pixels.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from unclip.config import suggest
from unclip.data.transforms import to_pil
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.prediction import Noise, Prediction
from unclip.diffusion.samplers import noise_from
from unclip.models.folder import ModelFolder, bundled
from unclip.models.precision import device_named, resolve
from unclip.pipeline.presets import preset
from unclip.stages.base import Sampling
from unclip.stages.conditioning import FrozenCLIP, TextCondition
from unclip.stages.decoder import DecoderStage
from unclip.stages.diffusion_prior import PriorStage
from unclip.stages.upsampler import UpsamplerStage

MOST_IMAGES = 1000  # of one call: more is a mistake, or a loop that should write as it goes
MOST_CHARACTERS = 10_000
GPU_BATCH = 16
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Callback = Callable[["Pipeline", int, int, dict[str, Any]], Any]


@dataclass(frozen=True)
class Settings:
    """Everything but the prompt and the seed that decides an image. None: the preset's value."""

    steps: str = "default"
    prior_num_inference_steps: int | None = None
    decoder_num_inference_steps: int | None = None
    super_res_num_inference_steps: int | None = None
    prior_guidance_scale: float | None = None
    decoder_guidance_scale: float | None = None
    sampler: str | None = None
    eta: float = 0.0
    size: int | None = None

    def changed(self) -> dict[str, Any]:
        """The values that differ from the defaults, for the image's notes."""
        return {
            name: value
            for name, value in vars(self).items()
            if value != type(self).__dataclass_fields__[name].default
        }


@dataclass(frozen=True)
class Output:
    """What a call made: N images, prompts repeated for each, and the seed of each image."""

    images: Any  # list of PIL images, (N, H, W, 3) array in [0, 1], or (N, 3, H, W) in [-1, 1]
    prompts: list[str] = field(default_factory=list)
    seeds: list[int | None] = field(default_factory=list)


class Pipeline:
    """Prior, decoder and upsamplers of one model folder.

    Args:
        clip, prior, decoder, upsamplers: the stages; upsamplers from small to large.
        defaults: guidance scales that suit this model, by argument name.
        name: how the model is called in the notes of images.
        device, dtype: where and in what precision the networks are; sampling state is fp32.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        prior: PriorStage,
        decoder: DecoderStage,
        upsamplers: Sequence[UpsamplerStage] = (),
        *,
        defaults: dict[str, float] | None = None,
        name: str = "",
    ) -> None:
        self.clip, self.prior, self.decoder = clip, prior, decoder
        self.upsamplers = list(upsamplers)
        self.defaults = {"prior_guidance_scale": 4.0, "decoder_guidance_scale": 8.0}
        self.defaults |= defaults or {}
        self.name = name
        self._null: TextCondition | None = None

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, *, dtype: str = "auto", device: str = "auto"
    ) -> Self:
        """Open a model folder.

        Args:
            folder: its path; the bundled model if left out.
            dtype: "auto" (what this machine computes fastest), "fp32" or "bf16".
            device: "auto" (a GPU if there is one), "cpu", "cuda", …

        Raises:
            ValueError: what is missing, damaged or does not fit, in one sentence.
        """
        model = ModelFolder(bundled("model") if folder is None else folder)
        if model.index().get("_class_name") != "UnCLIPPipeline":
            raise ValueError(
                f"{model.path} is a {model.index().get('_class_name')}; this opens UnCLIPPipeline"
            )
        place = device_named(device)
        precision = resolve(dtype, place)
        clip = FrozenCLIP.load(model, precision).to(place)
        prior = PriorStage.load(model, clip, precision)
        decoder = DecoderStage.load(model, clip, precision)
        names = [name for name in ("super_res_first", "super_res_1024") if model.has(name)]
        upsamplers = [UpsamplerStage.load(model, name, precision) for name in names]
        for network in (prior.network, decoder.network, *(one.network for one in upsamplers)):
            network.to(place).requires_grad_(False).eval()
        defaults = model.index().get("_defaults", {})
        return cls(
            clip, prior, decoder, upsamplers, defaults=defaults, name=str(folder or "bundled")
        )

    @property
    def device(self) -> torch.device:
        return next(self.decoder.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.decoder.network.parameters()).dtype

    @property
    def sizes(self) -> list[int]:
        """Pixels of a side that images can be made in."""
        return [self.decoder.size, *(upsampler.size for upsampler in self.upsamplers)]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model as it is loaded, in the precision that it is loaded in.

        Raises:
            ValueError: the folder cannot be written, or the disk is full; nothing is left then,
                unless the folder was there before: its components are replaced one by one.
        """
        folder = Path(folder)
        partial = folder if folder.exists() else folder.with_name(f".{folder.name}.new")
        model = ModelFolder(partial)
        try:
            self.clip.save(model)
            self.prior.save(model)
            self.decoder.save(model)
            for upsampler in self.upsamplers:
                upsampler.save(model)
            model.update_index({"_defaults": self.defaults})
            partial.rename(folder)
        except OSError as error:
            raise ValueError(f"cannot write the model {folder}: {error.strerror}") from None
        finally:
            if partial != folder:
                shutil.rmtree(partial, ignore_errors=True)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_images_per_prompt: int = 1,
        *,
        seed: int = 0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        callback_on_step_end: Callback | None = None,
        batch_size: int | None = None,
        settings: Settings | None = None,
        **overrides: Any,
    ) -> Output:
        """Make images for captions.

        Args:
            prompt: one caption or several.
            num_images_per_prompt: images for each of them.
            seed: image k of a prompt has a random stream of its own, from `seed` + k: a seed gives
                the same image alone, in a batch, or as one of several.
            generator: instead of `seed`: one that draws for the whole batch, or one per image.
            output_type: "pil" images, "np" (N, H, W, 3) in [0, 1], "pt" (N, 3, H, W) in [-1, 1].
            callback_on_step_end: called as (pipeline, step, timestep, state) with the state's
                "stage" ("prior", "decoder" or "super_res"), "x", "x0" and number of "images".
            batch_size: images computed at once, which bounds the memory; all of them if one
                generator draws for the whole batch. See `batch_size_for`.
            settings, overrides: see `Settings`; its fields can be given by name.

        Raises:
            ValueError: a prompt, number or setting that makes no sense.
        """
        settings = _settings(settings, overrides)
        prompts = check_prompts(prompt)
        count = check_count(num_images_per_prompt, len(prompts))
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type {output_type!r} is not one of 'pil', 'np', 'pt'")
        batch = self.batch_size_for(batch_size)
        self.evaluations(settings)  # what cannot be done is refused before the work
        repeated = [text for text in prompts for _ in range(count)]
        seeds = [seed + k for _ in prompts for k in range(count)]
        if isinstance(generator, torch.Generator):
            batch = len(seeds)
        parts = []
        for first in range(0, len(seeds), batch):
            rows = slice(first, first + batch)
            noise = _noise(generator, seeds, rows)
            text = self.clip.text(repeated[rows])
            parts.append(self._images(text, noise, settings, callback_on_step_end))
        known: list[int | None] = [None] * len(seeds) if generator is not None else [*seeds]
        return Output(_convert(torch.cat(parts), output_type), repeated, known)

    def _images(
        self, text: TextCondition, noise: Noise, settings: Settings, callback: Callback | None
    ) -> Tensor:
        """upsample(decode(prior(text))): images (N, 3, H, W) for N captions."""
        hook = _Hooks(self, callback, len(text))
        z_i = self.embed(text, noise, settings, hook("prior"))
        images = self.decode(z_i, text, noise, settings, hook("decoder"))
        for upsampler in self._upsamplers(settings.size):
            sampling = self.sampling("super_res", settings)
            images = upsampler.sample(images, sampling, noise, hook("super_res"))
        return images

    def embed(
        self, text: TextCondition, noise: Noise, settings: Settings, callback: Any = None
    ) -> Tensor:
        """z_i (N, D) for N captions: the prior."""
        sampling = self.sampling("prior", settings)
        return self.prior.sample(text, sampling, noise, self.null, callback)

    def decode(
        self,
        z_i: Tensor,
        text: TextCondition,
        noise: Noise,
        settings: Settings,
        callback: Any = None,
    ) -> Tensor:
        """Images (N, 3, h, w) in [-1, 1] at the decoder's resolution: the decoder."""
        sampling = self.sampling("decoder", settings)
        return self.decoder.sample(z_i, text, sampling, noise, self.null, callback)

    def sampling(self, stage: str, settings: Settings) -> Sampling:
        """How "prior", "decoder" or "super_res" is sampled under these settings."""
        row = preset(settings.steps)
        steps = getattr(settings, f"{stage}_num_inference_steps")
        steps = getattr(row, f"{stage}_steps") if steps is None else steps
        key = f"{stage}_guidance_scale"
        scale = getattr(settings, key, None)
        scale = self.defaults.get(key, 1.0) if scale is None else scale
        sampler = settings.sampler or row.sampler
        return Sampling(steps, sampler, Guidance(scale), settings.eta)

    @property
    def null(self) -> TextCondition:
        """The empty caption, a constant of the model: encoded once."""
        if self._null is None:
            self._null = self.clip.text([""])
        return self._null

    def batch_size_for(self, batch_size: int | None = None) -> int:
        """How many images are computed at once where `batch_size` is asked for.

        Left out, it is 16 on a GPU and 1 on a CPU: computing images together gains little there,
        and sums in another order, which changes images by a rounding error.
        """
        if batch_size is None:
            return 1 if self.device.type == "cpu" else GPU_BATCH
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        return batch_size

    def evaluations(self, settings: Settings) -> int:
        """Sampling steps of an image over all stages, for progress bars.

        Raises:
            ValueError: the settings name what this model or package does not have.
        """
        stages = ["prior", "decoder", *("super_res" for _ in self._upsamplers(settings.size))]
        return sum(self.sampling(stage, settings).steps for stage in stages)

    def _upsamplers(self, size: int | None) -> list[UpsamplerStage]:
        if size is None:
            return self.upsamplers
        if size not in self.sizes:
            made = ", ".join(map(str, self.sizes))
            raise ValueError(f"this model makes images of {made} pixels a side, not {size}")
        return self.upsamplers[: self.sizes.index(size)]


def check_prompts(prompt: str | Sequence[str]) -> list[str]:
    """A list of usable prompts, or a ValueError that says what is wrong with one."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
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


def check_count(per_prompt: int, prompts: int) -> int:
    """The number of images per prompt, if it is sensible."""
    if per_prompt < 1:
        raise ValueError(f"{per_prompt} images were asked for; ask for at least 1")
    if per_prompt * prompts > MOST_IMAGES:
        raise ValueError(
            f"{per_prompt * prompts:,} images were asked for at once; the limit is {MOST_IMAGES:,}"
        )
    return per_prompt


class _Hooks:
    """The caller's callback in the form that samplers call."""

    def __init__(self, pipeline: Pipeline, callback: Callback | None, images: int) -> None:
        self.pipeline, self.callback, self.images = pipeline, callback, images

    def __call__(self, stage: str) -> Callable[[int, int, Tensor, Prediction], None] | None:
        callback = self.callback
        if callback is None:
            return None

        def hook(i: int, t: int, x: Tensor, prediction: Prediction) -> None:
            state = {"stage": stage, "x": x, "x0": prediction.x0, "images": self.images}
            callback(self.pipeline, i, t, state)

        return hook


def _noise(
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


def _settings(settings: Settings | None, overrides: dict[str, Any]) -> Settings:
    settings = settings or Settings()
    known = type(settings).__dataclass_fields__
    for key in overrides:
        if key not in known:
            raise ValueError(f"unknown argument {key!r}{suggest(key, known)}")
    return replace(settings, **overrides)


def _convert(images: Tensor, output_type: str) -> Any:
    images = images.float().clamp(-1, 1).cpu()
    if output_type == "pt":
        return images
    if output_type == "np":
        array: np.ndarray[Any, Any] = ((images + 1) / 2).permute(0, 2, 3, 1).numpy()
        return array
    return [to_pil(image) for image in images]
