"""The whole model: a caption becomes an embedding, the embedding an image, the image a larger one.

    generate(text) = upsample(decode(prior(text)))

Shapes: N images, D embedding width, H × W pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from unclip.acceleration.int8 import is_int8
from unclip.acceleration.openvino import is_accelerated
from unclip.checks import listed, many, of_kind, true_or_false
from unclip.device.memory import give_back
from unclip.diffusion.inpainting import Known
from unclip.diffusion.prediction import Noise
from unclip.outputs.latents import check_embeddings, check_noise
from unclip.pipeline import embedding, inpainting, manipulations, requests, upscaling
from unclip.pipeline import sampling as how
from unclip.pipeline.diffusers_api import DiffusersAPI, check_stages
from unclip.pipeline.hooks import Callback
from unclip.pipeline.inpainting import Hole
from unclip.pipeline.inputs import check_count, check_prompts, check_stage
from unclip.pipeline.loading import load
from unclip.pipeline.requests import Output, OutputType, Part, Request
from unclip.pipeline.settings import Settings, check_settings, model_says, published
from unclip.pipeline.translation import check_opening
from unclip.pipeline.upscaling import enlarged
from unclip.stages.conditioning import FrozenCLIP, TextCondition
from unclip.stages.decoder import DecoderStage
from unclip.stages.prior import Prior
from unclip.stages.upsampler import UpsamplerStage
from unclip.storage.hub import Access
from unclip.words import Vocabulary


class Pipeline(DiffusersAPI):
    """Prior, decoder and upsamplers of one model folder.

    Args:
        clip, prior, decoder, upsamplers: the stages; upsamplers from small to large. There can be
            a list of priors, each of another kind: the first is taken where nobody says. Without
            any, the model makes variations of images only, unless its decoder needs none.
        autoregressive_prior: one more prior.
        defaults: guidance scales and sampler that suit this model, by argument name.
        name: how the model is called in the notes of images.
        revision: its commit on the Hub; empty for a folder of one's own.
        fingerprint: of its weights, which latents are checked against; empty: they are not.
        notes: what its index says of its training, for the index of a copy.
        device, dtype: where and in what precision the networks are; sampling state is fp32.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        prior: Prior | Sequence[Prior] | None,
        decoder: DecoderStage,
        upsamplers: Sequence[UpsamplerStage] = (),
        *,
        autoregressive_prior: Prior | None = None,
        defaults: dict[str, Any] | None = None,
        name: str = "",
        revision: str = "",
        fingerprint: str = "",
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        upsamplers = listed(upsamplers)
        priors = [*listed([] if prior is None else prior)]
        priors += [] if autoregressive_prior is None else [autoregressive_prior]
        kinds: list[tuple[Any, Any, str, str]] = [
            (defaults, dict | None, "defaults", "a dict"),
            (name, str, "name", "a string"),
            (fingerprint, str, "fingerprint", "a string"),
        ]
        check_stages("priors", dict(enumerate(priors)))  # each has a kind
        for given in kinds:
            of_kind(*given)
        self.clip, self.decoder = clip, decoder
        self.priors: dict[str, Prior] = {one.KIND: one for one in priors}
        if len(self.priors) < len(priors):
            raise ValueError("two priors of one kind were given; a pipeline takes one of each")
        self.upsamplers: list[UpsamplerStage] = upsamplers
        # A model of ours says what suits it in its index.
        self.defaults: dict[str, Any] = published() | model_says(defaults or {}, "defaults")
        self.name, self.revision, self.fingerprint = name, revision, fingerprint
        self._notes = dict(notes or {})
        self._interrupt = False
        self._null: TextCondition | None = None
        self._negative: tuple[Any, TextCondition] | None = None  # the last, and what it says

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        *,
        revision: str | None = None,
        variant: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        offload: bool = False,
        compile: bool = False,
        engine: str = "torch",
        torch_dtype: str | torch.dtype | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **others: Any,
    ) -> Self:
        """Open a model folder of the published layout, for captions or for image variations.

        Args:
            folder: its path, or "hf:owner/model" on the Hugging Face Hub, which is fetched into the
                Hub's cache; the bundled model if left out.
            revision: branch, tag or commit on the Hub.
            variant: which weights are read where there are several, e.g. "fp16".
            dtype: "auto" (what this machine computes fastest), "fp32", "bf16" or "fp16", torch's
                name or data type; on a CPU also "int8", an approximation (`acceleration/int8.py`).
            device: "auto" (a GPU if there is one), "cpu", "cuda", …
            offload: keep the weights of one component in memory at a time, and read them anew for
                every image, for machines that the whole model does not fit into.
            compile: have `torch.compile` compile the steps of priors and U-Nets, for GPUs: the
                first images take minutes. Images differ by rounding only.
            engine: what computes the steps of U-Nets: "torch", or "openvino", which is faster on
                many CPUs (`unclip doctor` measures it). Images differ by rounding only.
            torch_dtype: another name of `dtype`.
            cache_dir, token, local_files_only: how the Hub is asked, see `storage.hub.Access`.
            others: diffusers' further arguments, of which those that change nothing are taken.

        Raises:
            ValueError: what is missing, damaged or does not fit, in one sentence.
        """
        check_opening(others)
        precision = dtype if torch_dtype is None else torch_dtype
        access = Access(not true_or_false(local_files_only, "local_files_only"), cache_dir, token)
        asked = folder, revision, variant, precision, device, offload, compile, engine, access
        return cls(**load(*asked))

    @property
    def device(self) -> torch.device:
        return self.clip.device

    @property
    def dtype(self) -> torch.dtype:
        if is_int8(self.decoder.network):
            return torch.int8
        return next(self.decoder.network.parameters()).dtype

    @property
    def engine(self) -> str:
        """What computes the steps of its U-Nets, "torch" or "openvino"."""
        return "openvino" if is_accelerated(self.decoder.network.decoder) else "torch"

    @property
    def prior(self) -> Prior | None:
        """The diffusion prior, if it has one."""
        return self.priors.get("diffusion")

    @property
    def autoregressive_prior(self) -> Prior | None:
        return self.priors.get("autoregressive")

    @property
    def vocabulary(self) -> Vocabulary | None:
        """What its captions can speak of, `print` says it in a line; None if nothing is known."""
        return self.clip.tokenizer.vocabulary

    @property
    def sizes(self) -> list[int]:
        """Pixels of a side that images can be made in."""
        return [self.decoder.size, *(upsampler.size for upsampler in self.upsamplers)]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_images_per_prompt: int = 1,
        *,
        seed: int = 0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: OutputType = "pil",
        callback_on_step_end: Callback | None = None,
        batch_size: int | None = None,
        settings: Settings | None = None,
        **overrides: Any,
    ) -> Output:
        """Make images for captions.

        Args:
            prompt: one caption or several; the empty one draws images without a caption.
            num_images_per_prompt: images for each of them.
            seed: image k of a prompt has a random stream of its own, from `seed` + k: a seed gives
                the same image alone, in a batch, or as one of several.
            generator: instead of `seed`: one that draws for the whole batch, or one per image.
            output_type: "pil" images, "np" (N, H, W, 3) or "pt" (N, 3, H, W) in [0, 1], or as all
                is inside, "tensor" (N, 3, H, W) in [-1, 1], which is also "latent".
            callback_on_step_end: called as (pipeline, step, timestep, state) with the state's
                "stage" ("prior", "decoder" or "super_res"), "x" (also as "latents"), "x0" and
                number of "images"; sampling goes on with the "latents" of a dict that it returns.
            batch_size: images computed at once, which bounds the memory; all of them if one
                generator draws for the whole batch. See `batch_size_for`.
            settings, overrides: see `Settings`; its fields can be given by name. And `side_by_side`
                (of all calls that make images): on a CPU parts of `batch_size` images are computed
                at the same time, each on one thread, which for small networks is faster than
                threads within their layers; images are those of one thread to the last bit.

        Raises:
            ValueError: a prompt, number or setting that makes no sense.
        """
        request = Request.of(
            settings, overrides, self.sizes, seed=seed, generator=generator,
            output_type=output_type, callback_on_step_end=callback_on_step_end,
            batch_size=batch_size,
        )  # fmt: skip
        prompts = check_prompts(prompt, empty=True)
        count = check_count(num_images_per_prompt, len(prompts))
        steps = self.evaluations(request.settings)  # what cannot be done is refused before the work
        self.captions(prompts, empty=True)

        def draw(part: Part) -> Tensor:
            text = self.clip.text([prompts[k] for k in part.of])
            z_i = self.embed(text, part.noise_of("prior"), part.settings, part.hook("prior"))
            images = self.decoded(z_i, text, part)
            return self.upsampled(images, part)

        return request.made(self, prompts, count, draw, steps)

    @property
    def interrupt(self) -> bool:
        """Whether the last call was, or the one that is running is to be interrupted.

        `pipe._interrupt = True`, in a callback or another thread, ends the sampling that is running
        after its step, with what it knows of the data. Nothing else is begun: images are enlarged
        without a network, are grey if the decoder had not begun, and are left out if nothing had.
        """
        return self._interrupt

    def decoded(
        self,
        z_i: Tensor,
        text: TextCondition,
        part: Part,
        start: Tensor | None = None,
        known: Hole | None = None,
        scales: Sequence[float] | None = None,
    ) -> Tensor:
        """The decoder's images (N, 3, h, w) of a part; grey if the call has been interrupted."""
        size = self.decoder.size
        if self.interrupt:
            return torch.zeros(len(z_i), 3, size, size, device=self.device)
        there = known.known(size, self.device) if known else None
        noise, hook = part.noise_of("decoder"), part.hook("decoder")
        return self.decode(z_i, text, noise, part.settings, hook, start, there, scales)

    def upsampled(self, images: Tensor, part: Part, known: Hole | None = None) -> Tensor:
        """A part's images (N, 3, H, W) from the decoder's; without a network once the call has been
        interrupted."""
        upsamplers = how.upsamplers_to(self, part.settings.size)
        if upsamplers and self.device.type == "cpu":
            give_back()  # above all the decoder's transformed weights, which are of no use any more
        for one in upsamplers:
            images = known.blended(images) if known else images
            there = known.known(one.size, self.device) if known else None
            if self.interrupt:
                images = enlarged(images, (one.size, one.size))
                continue
            stage = how.stage_name(one)
            sampling, noise = self.sampling(stage, part.settings), part.noise_of(stage)
            images = one.sample(images, sampling, noise, part.hook("super_res"), known=there)
        return images

    def embed(
        self, text: TextCondition, noise: Noise, settings: Settings, callback: Any = None
    ) -> Tensor:
        """z_i (N, D) for N captions: the prior, or z_t for a decoder that needs none."""
        check_stage(text, noise, callback)
        if not self.decoder.needs_prior:
            return text.z_t
        prior = self.prior_for(settings)
        sampling, candidates = self.sampling("prior", settings), settings.prior_num_candidates
        null = self.null_for("prior", settings, sampling)
        return prior.sample(text, sampling, noise, null, callback, candidates)

    def decode(
        self,
        z_i: Tensor,
        text: TextCondition,
        noise: Noise,
        settings: Settings,
        callback: Any = None,
        start: Tensor | None = None,
        known: Known | None = None,
        scales: Sequence[float] | None = None,
    ) -> Tensor:
        """Images (N, 3, h, w) in [-1, 1] at the decoder's resolution: the decoder.

        Args:
            scales: guidance scales, one for each, where settings leave it open.
        """
        check_stage(text, noise, callback)
        z_i = check_embeddings(z_i, self.clip.width, "z_i").to(self.device)
        if len(z_i) != len(text):
            raise ValueError(
                f"{many(len(z_i), 'embeddings were')} given for {many(len(text), 'captions')}"
            )
        start = None if start is None else check_noise(start, len(z_i), self.decoder.size)
        of_kind(known, Known | None, "known", "a Known")  # type: ignore[arg-type]
        check_settings(settings)
        each = [settings] if scales is None else settings.guided(scales, len(z_i))
        sampling = how.scaled(
            [self.sampling("decoder", one, painting=known is not None) for one in each]
        )
        null = self.null_for("decoder", settings, sampling)
        images = self.decoder.sample(z_i, text, sampling, noise, null, callback, start, known)
        return images.clamp(-1, 1)  # as the layout defines; most schedulers clip already

    @property
    def null(self) -> TextCondition:
        """The empty caption, a constant of the model: encoded once."""
        if self._null is None:
            self._null = self.clip.text([""])
        return self._null

    def forget(self) -> None:
        """Encode the empty and the negative caption anew: the networks are others now."""
        self._null = self._negative = None

    # The rest of what a pipeline does: functions of it, in a file for each subject.
    embed_images = embedding.embed_images
    embed_texts = embedding.embed_texts
    captions = embedding.captions
    text_direction = embedding.text_direction
    squares = embedding.squares
    decode_embeddings = manipulations.decode_embeddings
    invert = manipulations.invert
    reconstruct = manipulations.reconstruct
    psnr = manipulations.psnr
    vary = manipulations.vary
    blend = manipulations.blend
    edit = manipulations.edit
    probe = manipulations.probe
    inpaint = inpainting.inpaint
    inpainting_steps = inpainting.inpainting_steps
    upscale = upscaling.upscale
    upscaling_steps = upscaling.upscaling_steps
    sampling = how.sampling
    evaluations = how.evaluations
    prior_for = how.prior_for
    null_for = how.null_for
    check_negative = how.check_negative
    batch_size_for = requests.batch_size_for
