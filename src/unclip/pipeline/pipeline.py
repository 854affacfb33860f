"""The whole model: a caption becomes an embedding, the embedding an image, the image a larger one.

    generate(text) = upsample(decode(prior(text)))

Shapes: N images, D embedding width, H × W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self

import torch
from PIL import Image
from torch import Tensor

from unclip.acceleration.int8 import is_int8
from unclip.acceleration.offload import Offload, is_offloaded
from unclip.checks import listed, of_kind, true_or_false
from unclip.config import one_of
from unclip.device.memory import give_back, kept_memory
from unclip.device.precision import device_named, dtype_named
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.inpainting import Known
from unclip.diffusion.prediction import Noise
from unclip.diffusion.process import Diffusion
from unclip.diffusion.sampling import Sampling
from unclip.files import as_path, private_folder
from unclip.networks.diffusion_prior import Prefix
from unclip.outputs.latents import check_embeddings, check_noise
from unclip.pipeline.hooks import Callback, Hooks
from unclip.pipeline.inpainting import RESAMPLES, Box, Hole, plan_hole
from unclip.pipeline.manipulations import Manipulations
from unclip.pipeline.opening import CLASSES, TEXT_TO_IMAGE, VARIATION, Parts, read_defaults
from unclip.pipeline.requests import (
    Drawing,
    Output,
    check_count,
    check_image,
    check_prompt,
    check_prompts,
    convert,
    noise_for,
)
from unclip.pipeline.settings import (
    INPAINTING,
    PRIORS,
    STAGES,
    Preset,
    Row,
    Settings,
    check_settings,
    joined,
    of_prior,
    preset,
    published,
    resolve,
)
from unclip.pipeline.upscaling import enlarge, enlarged, plan_passes
from unclip.stages.autoregressive_prior import AutoregressivePriorStage
from unclip.stages.conditioning import FrozenCLIP, TextCondition
from unclip.stages.decoder import DecoderStage
from unclip.stages.diffusion_prior import PriorStage
from unclip.stages.upsampler import SECOND, UpsamplerStage
from unclip.storage.folder import ModelFolder, bundled
from unclip.storage.hub import commit_of, resolve_model

GPU_BATCH = 16
_NO_PRIOR = "this model has no prior: it makes variations of images, not images for captions"


class Pipeline(Manipulations):
    """Prior, decoder and upsamplers of one model folder.

    Args:
        clip, prior, decoder, upsamplers: the stages; upsamplers from small to large. Without any
            prior the model makes variations of images only, unless its decoder needs none.
        autoregressive_prior: the other kind of prior, beside or instead of the diffusion prior.
        defaults: guidance scales and sampler that suit this model, by argument name.
        name: how the model is called in the notes of images.
        revision: its commit on the Hub; empty for a folder of one's own.
        fingerprint: of its weights, which latents are checked against; empty: they are not.
        device, dtype: where and in what precision the networks are; sampling state is fp32.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        prior: PriorStage | None,
        decoder: DecoderStage,
        upsamplers: Sequence[UpsamplerStage] = (),
        *,
        autoregressive_prior: AutoregressivePriorStage | None = None,
        defaults: dict[str, Any] | None = None,
        name: str = "",
        revision: str = "",
        fingerprint: str = "",
    ) -> None:
        upsamplers = listed(upsamplers)
        kinds: list[tuple[Any, Any, str, str]] = [
            (clip, FrozenCLIP, "clip", "a FrozenCLIP"),
            (prior, PriorStage | None, "prior", "a PriorStage"),
            (decoder, DecoderStage, "decoder", "a DecoderStage"),
            *((one, UpsamplerStage, "an upsampler", "an UpsamplerStage") for one in upsamplers),
            (
                autoregressive_prior,
                AutoregressivePriorStage | None,
                "autoregressive_prior",
                "an AutoregressivePriorStage",
            ),
            (defaults, dict | None, "defaults", "a dict"),
            (name, str, "name", "a string"),
            (fingerprint, str, "fingerprint", "a string"),
        ]
        for given in kinds:
            of_kind(*given)
        self.autoregressive_prior = autoregressive_prior
        self.clip, self.prior, self.decoder = clip, prior, decoder
        self.upsamplers: list[UpsamplerStage] = upsamplers
        # A model of ours says what suits it in its index.
        self.defaults: dict[str, Any] = published() | (defaults or {})
        self.name, self.revision, self.fingerprint = name, revision, fingerprint
        self._interrupt = False
        self._null: TextCondition | None = None
        self._null_prefix: Prefix | None = None  # of `null`, in the prior: a constant too

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        *,
        revision: str | None = None,
        variant: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str = "auto",
        offload: bool = False,
        compile: bool = False,
    ) -> Self:
        """Open a model folder of the published layout, for captions or for image variations.

        Args:
            folder: its path, or "hf:owner/model" on the Hugging Face Hub, which is fetched into the
                Hub's cache; the bundled model if left out.
            revision: branch, tag or commit on the Hub.
            variant: which weights are read where there are several, e.g. "fp16".
            dtype: "auto" (what this machine computes fastest), "fp32", "bf16" or "fp16", or the
                torch data type; on a CPU also "int8", an approximation (`acceleration/int8.py`).
            device: "auto" (a GPU if there is one), "cpu", "cuda", …
            offload: keep the weights of one component in memory at a time, and read them anew for
                every image, for machines that the whole model does not fit into.
            compile: have `torch.compile` compile the steps of priors and U-Nets, for GPUs: the
                first images take minutes. Images differ by rounding only.

        Raises:
            ValueError: what is missing, damaged or does not fit, in one sentence.
        """
        offload, compile = true_or_false(offload, "offload"), true_or_false(compile, "compile")
        place = device_named(device)
        precision = dtype_named(dtype, place)
        if compile and (offload or precision == torch.int8):
            other = "offload" if offload else "int8"
            raise ValueError(f"{other} and compile do not go together: open without one of them")
        if folder is None:
            path = bundled("model")
        else:
            path = resolve_model(folder, revision, variant, CLASSES)
        model = ModelFolder(path, variant, Offload(place) if offload else None)
        with model.steady():
            parts, defaults = Parts.open(model, precision, place), read_defaults(model)
            print_ = model.fingerprint("decoder", "text_proj", "text_encoder", "image_encoder")
        if compile:
            parts.compile()
        else:
            parts.pack()
        return cls(
            parts.clip,
            parts.prior,
            parts.decoder,
            parts.upsamplers,
            autoregressive_prior=parts.autoregressive_prior,
            defaults=defaults,
            name=str(folder or "bundled"),
            revision=commit_of(path) or "",
            fingerprint=print_,
        )

    @property
    def device(self) -> torch.device:
        return self.clip.device

    @property
    def dtype(self) -> torch.dtype:
        if is_int8(self.decoder.network):
            return torch.int8
        return next(self.decoder.network.parameters()).dtype

    @property
    def _offloaded(self) -> bool:
        """Whether the weights are on the disk, but for those of one component at most."""
        return is_offloaded(self.decoder.network) or is_offloaded(self.clip.text_encoder)

    @property
    def sizes(self) -> list[int]:
        """Pixels of a side that images can be made in."""
        return [self.decoder.size, *(upsampler.size for upsampler in self.upsamplers)]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model as it is loaded, in the precision that it is loaded in.

        Another model in the folder is replaced: nothing of it is opened any more. What opening
        never reads, such as a judge, stays.

        diffusers opens the folder too, once its loader is mended (docs/published_models.md).

        Raises:
            ValueError: the model is offloaded or in int8; the folder cannot be written, or the disk
                is full: what was there before is then still there, whole.
        """
        folder = as_path(folder, "folder")
        if self.dtype == torch.int8:
            raise ValueError("a model in int8 cannot be saved; open it in another precision")
        if self._offloaded:
            raise ValueError("an offloaded model is not all in memory; open it without offload")
        try:
            if folder.exists():
                self._save(ModelFolder(folder))
                return
            folder.parent.mkdir(parents=True, exist_ok=True)
            with private_folder(folder) as private:
                self._save(ModelFolder(private / folder.name))
                (private / folder.name).rename(folder)
        except OSError as error:
            raise ValueError(f"cannot write the model {folder}: {error.strerror}") from None

    def _save(self, model: ModelFolder) -> None:
        priors, defaults = self._priors(), dict(self.defaults)
        if defaults.get("prior") not in priors:
            defaults.pop("prior", None)
        kind = TEXT_TO_IMAGE if priors or not self.decoder.needs_prior else VARIATION
        with model.publishing(anew=CLASSES):
            self.clip.save(model)
            for prior in priors.values():
                prior.save(model)
            self.decoder.save(model)
            for upsampler in self.upsamplers:
                upsampler.save(model)
            model.update_index({"_class_name": kind, "_defaults": defaults})

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
        settings = joined(settings, overrides)
        drawing = Drawing(seed, generator, output_type, callback_on_step_end, batch_size)
        prompts = check_prompts(prompt)
        count = check_count(num_images_per_prompt, len(prompts))
        self.evaluations(settings)  # what cannot be done is refused before the work
        self.captions(prompts)
        repeated = [text for text in prompts for _ in range(count)]

        def make(rows: slice, noise: Noise) -> Tensor:
            text = self.clip.text(repeated[rows])
            hook = Hooks(self, callback_on_step_end, len(text))
            z_i = self.embed(text, noise, settings, hook("prior"))
            return self._images(z_i, text, noise, settings, hook)

        return self._all(make, repeated, drawing.seeds(len(prompts), count), drawing)

    @torch.no_grad()
    def decode_embeddings(
        self,
        image_embeddings: Any,
        num_images_per_prompt: int = 1,
        *,
        start: Tensor | None = None,
        seed: int = 0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        callback_on_step_end: Callback | None = None,
        batch_size: int | None = None,
        settings: Settings | None = None,
        **overrides: Any,
    ) -> Output:
        """Make images for image embeddings, without a caption; all manipulations end here.

        The empty prompt is in both branches of the guidance, which so acts on z_i alone.

        Args:
            image_embeddings: z_i (N, D) or (D,), a tensor or array of floats.
            num_images_per_prompt: images for each; the other arguments are those of a call.
            start: x_T (N, 3, h, h) of each, as inversion gives it; fresh noise if left out.

        Raises:
            ValueError: embeddings of another width, noise of another shape, or either with NaN; a
                number or setting that makes no sense.
        """
        settings = joined(settings, overrides)
        drawing = Drawing(seed, generator, output_type, callback_on_step_end, batch_size)
        z_all = check_embeddings(image_embeddings, self.clip.width).to(self.device)
        count = check_count(num_images_per_prompt, len(z_all))
        self.evaluations(settings, "decoder")
        if self.decoder.settings.condition == "caption":
            raise ValueError("this model's decoder sees captions only: it cannot vary images")
        if start is not None:
            start = check_noise(start, len(z_all), self.decoder.size)

        def make(rows: slice, noise: Noise) -> Tensor:
            of = torch.arange(len(z_all)).repeat_interleave(count)[rows]
            z_i = z_all[of.to(z_all.device)]
            x = None if start is None else start[of.to(start.device)].to(z_i)
            hook = Hooks(self, callback_on_step_end, len(z_i))
            return self._images(z_i, self.null.expand(len(z_i)), noise, settings, hook, x)

        seeds = drawing.seeds(len(z_all), count)
        return self._all(make, [""] * len(seeds), seeds, drawing)

    @torch.no_grad()
    def inpaint(
        self,
        image: Image.Image,
        prompt: str,
        mask: Image.Image | None = None,
        num_images_per_prompt: int = 1,
        *,
        boxes: Sequence[Box] = (),
        seed: int = 0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        callback_on_step_end: Callback | None = None,
        batch_size: int | None = None,
        settings: Settings | None = None,
        **overrides: Any,
    ) -> Output:
        """Repaint a part of an image for a caption, and keep the rest bit for bit.

        z_i is the prior's for the caption. A decoder with mask channels sees what is known (GLIDE,
        section 2.4); any other one is led to it by RePaint's resampling. See
        `pipeline/inpainting.py` for sizes, and `diffusion/inpainting.py` for the algorithm.

        Args:
            image: a Pillow image of any mode, size and aspect; the results are of its size.
            prompt: what it should show then.
            mask: of the image's size; what is white (128 of 255 or brighter) is repainted.
            boxes: (x0, y0, x1, y1) in pixels, repainted too; x1 and y1 are just outside.
            settings, overrides: see `Settings`, `resamples` among them; the other arguments are
                those of a call.

        Raises:
            ValueError: image, mask or boxes as in `plan_hole`; a prompt, number or setting that
                makes no sense; a model without a prior.
        """
        settings = joined(settings, overrides)
        drawing = Drawing(seed, generator, output_type, callback_on_step_end, batch_size)
        caption = check_prompt(prompt)
        count = check_count(num_images_per_prompt, 1)
        image = check_image(image)
        mask = None if mask is None else check_image(mask, "a mask")
        self.inpainting_steps(settings)
        hole = plan_hole(image, mask, boxes, settings.size or self.sizes[-1])
        self.captions(caption)

        def make(rows: slice, noise: Noise) -> Tensor:
            text = self.clip.text([caption] * len(range(count)[rows]))
            hook = Hooks(self, callback_on_step_end, len(text))
            z_i = self.embed(text, noise, settings, hook("prior"))
            return hole.filled(self._images(z_i, text, noise, settings, hook, hole=hole))

        return self._all(make, [caption] * count, drawing.seeds(1, count), drawing)

    def inpainting_steps(self, settings: Settings) -> int:
        """Sampling steps of an image of `inpaint`, for progress bars; `ValueError` as there."""
        check_settings(settings)
        decoder = self.sampling("decoder", settings)
        return self.evaluations(settings) + (decoder.resamples - 1) * decoder.steps

    @torch.no_grad()
    def upscale(
        self,
        image: Image.Image,
        *,
        seed: int = 0,
        generator: torch.Generator | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        callback_on_step_end: Callback | None = None,
        settings: Settings | None = None,
        **overrides: Any,
    ) -> Output:
        """Enlarge an image with the upsamplers alone (section 2.1); see `pipeline/upscaling.py`.

        Args:
            image: a Pillow image of any mode, size and aspect.
            settings, overrides: `size` is the longer side of the result; if left out, the nearest
                upsampler is applied once. The other arguments are those of a call.

        Raises:
            ValueError: no image; a size that cannot be reached; a setting that makes no sense.
        """
        settings = joined(settings, overrides)
        drawing = Drawing(seed, generator, output_type, callback_on_step_end)
        image = check_image(image)
        passes = plan_passes(self.decoder.size, self.upsamplers, image, settings.size)
        self.upscaling_steps(image, settings)  # what cannot be done is refused before the work
        hooks = Hooks(self, callback_on_step_end, 1)

        def make(rows: slice, noise: Noise) -> Tensor:
            return enlarge(
                image,
                passes,
                settings.size,
                lambda stage: self.sampling(_stage_name(stage), settings),
                noise,
                lambda: None if self.interrupt else hooks("super_res"),
                self.device,
            )

        return self._all(make, [""], drawing.seeds(1, 1), drawing)

    def upscaling_steps(self, image: Image.Image, settings: Settings) -> int:
        """Sampling steps of `upscale`, for progress bars; `ValueError` as there."""
        image = check_image(image)
        size = check_settings(settings).size
        stages = [p.stage for p in plan_passes(self.decoder.size, self.upsamplers, image, size)]
        return sum(self._steps(_stage_name(stage), stage.process, settings) for stage in stages)

    def _all(
        self,
        make: Callable[[slice, Noise], Tensor],
        prompts: list[str],
        seeds: list[int],
        drawing: Drawing,
    ) -> Output:
        """Every image, some at a time; when the call is interrupted, those that were begun."""
        self._interrupt = False
        batch = self.batch_size_for(drawing.batch_size)
        if isinstance(drawing.generator, torch.Generator):
            batch = len(seeds)
        parts: list[Tensor] = []
        with kept_memory(self.device):
            for first in range(0, len(seeds), batch):
                rows = slice(first, first + batch)
                noise = noise_for(drawing.generator, seeds, rows)
                if self.interrupt:
                    break
                parts.append(make(rows, noise))
        images = torch.cat(parts)
        known: list[int | None] = [*seeds] if drawing.generator is None else [None] * len(seeds)
        count = len(images)
        return Output(convert(images, drawing.output_type), prompts[:count], known[:count])

    @property
    def interrupt(self) -> bool:
        """Whether the last call was, or the one that is running is to be interrupted.

        `pipe._interrupt = True`, in a callback or another thread, ends the sampling that is running
        after its step, with what it knows of the data. Nothing else is begun: images are enlarged
        without a network, are grey if the decoder had not begun, and are left out if nothing had.
        """
        return self._interrupt

    def _images(
        self,
        z_i: Tensor,
        text: TextCondition,
        noise: Noise,
        settings: Settings,
        hook: Hooks,
        start: Tensor | None = None,
        hole: Hole | None = None,
    ) -> Tensor:
        """upsample(decode(z_i)): images (N, 3, H, W), or what is repainted of one."""
        known = hole.known(self.decoder.size, self.device) if hole else None
        if self.interrupt:
            images = torch.zeros(len(z_i), 3, *[self.decoder.size] * 2, device=self.device)
        else:
            images = self.decode(z_i, text, noise, settings, hook("decoder"), start, known)
        upsamplers = self._upsamplers(settings.size)
        if upsamplers and self.device.type == "cpu":
            give_back()  # above all the decoder's transformed weights, which are of no use any more
        for upsampler in upsamplers:
            images = hole.blended(images) if hole else images
            known = hole.known(upsampler.size, self.device) if hole else None
            if self.interrupt:
                images = enlarged(images, (upsampler.size, upsampler.size))
                continue
            sampling = self.sampling(_stage_name(upsampler), settings)
            images = upsampler.sample(images, sampling, noise, hook("super_res"), known=known)
        return images

    def embed(
        self, text: TextCondition, noise: Noise, settings: Settings, callback: Any = None
    ) -> Tensor:
        """z_i (N, D) for N captions: the prior, or z_t for a decoder that needs none."""
        _check_stage(text, noise, callback)
        if not self.decoder.needs_prior:
            return text.z_t
        prior = self.prior_for(settings)
        sampling, candidates = self.sampling("prior", settings), settings.prior_num_candidates
        if isinstance(prior, AutoregressivePriorStage):
            return prior.sample(text, sampling, noise, self.null, callback, candidates)
        if self._null_prefix is None and sampling.guidance.scale != 1:
            self._null_prefix = prior.prefix(self.null)
        return prior.sample(text, sampling, noise, self._null_prefix, callback, candidates)

    def prior_for(self, settings: Settings) -> PriorStage | AutoregressivePriorStage:
        """The prior that these settings ask for, or the model's own.

        Raises:
            ValueError: the model has no such prior, or none at all.
        """
        priors = self._priors()
        if not priors:
            raise ValueError(_NO_PRIOR)
        kind = check_settings(settings).prior or self.defaults.get("prior") or next(iter(priors))
        if kind not in priors:
            raise ValueError(f"this model has no {kind} prior, only the {next(iter(priors))} one")
        return priors[kind]

    def _priors(self) -> dict[str, PriorStage | AutoregressivePriorStage]:
        both = {"diffusion": self.prior, "autoregressive": self.autoregressive_prior}
        return {kind: stage for kind, stage in both.items() if stage is not None}

    def decode(
        self,
        z_i: Tensor,
        text: TextCondition,
        noise: Noise,
        settings: Settings,
        callback: Any = None,
        start: Tensor | None = None,
        known: Known | None = None,
    ) -> Tensor:
        """Images (N, 3, h, w) in [-1, 1] at the decoder's resolution: the decoder."""
        _check_stage(text, noise, callback)
        z_i = check_embeddings(z_i, self.clip.width, "z_i").to(self.device)
        if len(z_i) != len(text):
            raise ValueError(f"{len(z_i)} embeddings were given for {len(text)} captions")
        start = None if start is None else check_noise(start, len(z_i), self.decoder.size)
        of_kind(known, Known | None, "known", "a Known")  # type: ignore[arg-type]
        sampling = self.sampling("decoder", settings)
        images = self.decoder.sample(z_i, text, sampling, noise, self.null, callback, start, known)
        return images.clamp(-1, 1)  # as the layout defines; most schedulers clip already

    def sampling(self, stage: str, settings: Settings) -> Sampling:
        """How "prior", "decoder", "super_res" or "super_res_1024" is sampled: one setting for both
        upsamplers, but a preset's way for each."""
        one_of(stage, "stage", STAGES)
        rows, model = preset(check_settings(settings).steps), self.defaults
        prior = self.prior_for(settings) if stage == "prior" else None
        if isinstance(prior, AutoregressivePriorStage):
            model = of_prior(model, PRIORS[1])

        def said(row: Row) -> dict[str, Any]:
            steps = max(row["steps"], self._least_steps(stage))
            return resolve(stage, settings, {**row, "steps": steps}, model)

        values = said(getattr(rows, stage))
        if stage == "decoder":
            distilled = self._distilled(settings, values["guidance_scale"], rows)
            values = said(rows.decoder_distilled or rows.decoder) if distilled else values
            values["guidance_distilled"] = distilled
            resamples = 1 if self.decoder.settings.inpainting else RESAMPLES
            values |= resolve(INPAINTING, settings, {"resamples": resamples}, {})
        if isinstance(prior, AutoregressivePriorStage):
            values["steps"] = prior.steps
        return sampling_of(values)

    def _distilled(self, settings: Settings, scale: float, rows: Preset) -> bool:
        """Whether the decoder's student gives guided predictions; ValueError if it cannot."""
        if settings.guidance_kind == "distilled":
            self.decoder.check_distilled(scale)
        elif settings.guidance_kind is not None or rows.decoder_distilled is None:
            return False
        return self.decoder.distils(scale)

    def _least_steps(self, stage: str) -> int:
        """Of a preset: see `Preset`."""
        named = (one for one in self.upsamplers if _stage_name(one) == stage)
        predicts_noise = any(one.process.config.prediction_type == "epsilon" for one in named)
        return 2 if predicts_noise else 1

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
        checked = Drawing(batch_size=batch_size).batch_size
        assert checked is not None
        return checked

    def evaluations(self, settings: Settings, start: Literal["prior", "decoder"] = "prior") -> int:
        """Sampling steps of an image over all stages, for progress bars.

        Args:
            start: the first stage: the prior for captions, the decoder for variations.

        Raises:
            ValueError: the settings name what this model or package does not have.
        """
        one_of(start, "start", ("prior", "decoder"))
        upsamplers = self._upsamplers(check_settings(settings).size)
        steps = self._steps("decoder", self.decoder.process, settings)
        steps += sum(self._steps(_stage_name(one), one.process, settings) for one in upsamplers)
        if start == "decoder" or not self.decoder.needs_prior:
            return steps
        prior = self.prior_for(settings)
        process = prior.process if isinstance(prior, PriorStage) else None
        return steps + self._steps("prior", process, settings)

    def _steps(self, stage: str, process: Diffusion | None, settings: Settings) -> int:
        """Of a stage; `ValueError` for more than its process has, if it has one."""
        sampling = self.sampling(stage, settings)
        return sampling.steps if process is None else len(process.timesteps(sampling))

    def _upsamplers(self, size: int | None) -> list[UpsamplerStage]:
        if size is None:
            return self.upsamplers
        if size not in self.sizes:
            made = ", ".join(map(str, self.sizes))
            raise ValueError(f"this model makes images of {made} pixels a side, not {size}")
        return self.upsamplers[: self.sizes.index(size)]


def _stage_name(upsampler: UpsamplerStage) -> str:
    return SECOND if upsampler.component == SECOND else "super_res"


def sampling_of(values: dict[str, Any]) -> Sampling:
    """What `resolve` found, of which `Sampling` and, with the prefix, `Guidance` take their own."""
    own = {field.name for field in fields(Sampling)}
    scales = {f"guidance_{field.name}": field.name for field in fields(Guidance)}
    guidance = Guidance(**{scales[key]: value for key, value in values.items() if key in scales})
    return Sampling(
        guidance=guidance, **{key: value for key, value in values.items() if key in own}
    )


def _check_stage(text: TextCondition, noise: Noise, callback: Any) -> None:
    """Refuse what no stage can be sampled with."""
    of_kind(text, TextCondition, "text", "encoded captions")
    for function, name in ((noise, "noise"), (callback, "callback")):
        if not callable(function) and not (function is None and name == "callback"):
            raise ValueError(f"{name} must be a function, not {type(function).__name__}")
