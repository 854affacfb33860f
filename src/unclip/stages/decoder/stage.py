"""The decoder as it is trained and sampled.

Shapes: N images of H × W pixels at the decoder's resolution, C × h × w in its space (of pixels, the
same with C = 3).
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor

from unclip.batch import Batch
from unclip.diffusion.guidance import Guidance, guide
from unclip.diffusion.inpainting import Known
from unclip.diffusion.prediction import Denoiser, Noise
from unclip.diffusion.process import Diffusion
from unclip.diffusion.samplers import Callback, noise_from
from unclip.diffusion.sampling import Sampling
from unclip.diffusion.schedules import DiffusionConfig
from unclip.draws import uniform
from unclip.stages.conditioning import (
    FrozenCLIP,
    TextCondition,
    dropped,
    image_embeddings,
    text_condition,
)
from unclip.stages.decoder.denoising import answers, beside_known, handing_over
from unclip.stages.decoder.network import (
    MASKS,
    TEXT_ENCODER,
    DecoderNetwork,
    build_network,
    for_another_clip,
    fresh_masks,
    load_network,
    save_network,
    settings_of,
)
from unclip.stages.decoder.protocols import Encoder, Pixels, Space, Student, pooled
from unclip.stages.decoder.settings import NOTE, DecoderSettings
from unclip.stages.decoder.student import STUDENT, load_student
from unclip.stages.masks import mask_channels, random_masks
from unclip.stages.suiting import of_decoder
from unclip.storage.folder import ModelFolder, together
from unclip.storage.scheduler import load_scheduler, save_scheduler
from unclip.storage.weights import fingerprint_of

TEACHER = ("decoder", "text_proj", TEXT_ENCODER, MASKS)  # what a student belongs to


class DecoderStage:
    """Networks, process and frozen encoder of the decoder, and its student, if it has one.

    Args:
        clip: what it listens to, CLIP or another `Encoder`.
        space: where it works; pixels, if left out.
    """

    def __init__(
        self,
        network: DecoderNetwork,
        clip: Encoder,
        process: DiffusionConfig,
        settings: DecoderSettings,
        student: Student | None = None,
        space: Space | None = None,
    ) -> None:
        # Convolutions run faster on channels-last tensors, on CPUs and GPUs alike.
        self.network: DecoderNetwork = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.clip, self.settings, self.student = clip, settings, student
        self.space: Space = space or Pixels()
        if student is not None:
            student.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.process = Diffusion(process, settings.loss)

    @classmethod
    def build(
        cls, settings: DecoderSettings, clip: Encoder, size: int, space: Space | None = None
    ) -> Self:
        """A fresh decoder for images of `size` pixels a side."""
        space = space or Pixels()
        process = DiffusionConfig(
            variance_type="learned_range" if space.discrete else "fixed_small_log",
            prediction_type=settings.prediction_type,
            clip_sample=space.discrete,
        )
        network = build_network(settings, clip.text_sizes, size, space)
        return cls(network, clip, process, settings, space=space)

    @classmethod
    def load(cls, folder: ModelFolder, clip: FrozenCLIP, dtype: torch.dtype | None = None) -> Self:
        """Read `decoder`, `text_proj`, `decoder_scheduler` and, where the folder notes that there
        is one, `decoder_text_encoder` of a model folder; `decoder_distilled` where it is there."""
        process = load_scheduler(folder, "decoder_scheduler")
        settings = DecoderSettings.noted(folder)
        network = load_network(folder, clip, settings, process, dtype)
        settings = settings_of(network, clip, process, settings)
        student = None
        if folder.has(STUDENT):
            student = load_student(folder, network.decoder.config, dtype)
        return cls(network, clip, process, settings, student)

    def with_student(self, student: Student | None) -> "DecoderStage":
        """The same decoder with another student."""
        process, settings = self.process.config, self.settings
        return DecoderStage(self.network, self.clip, process, settings, student, self.space)

    def for_clip(self, clip: FrozenCLIP) -> tuple["DecoderStage", list[str]]:
        """This decoder as the start of one that listens to another CLIP, without its student; and
        the names of the tensors that did not fit it and are fresh."""
        network, left = for_another_clip(self.network, clip.text_sizes)
        process = self.process.config
        settings = settings_of(network, clip, process, self.settings)
        return DecoderStage(network, clip, process, settings, space=self.space), left

    @property
    def needs_prior(self) -> bool:
        """Whether a caption alone is not enough: z_i must come from somewhere."""
        return self.settings.condition == "image"

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return self.network.decoder.config.sample_size * self.space.factor

    @property
    def side(self) -> int:
        """Of x_t: h and w."""
        return self.network.decoder.config.sample_size

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """L_hybrid on images, with z_i and captions dropped independently."""
        x0 = self.space.encode(batch["images"]).contiguous(memory_format=torch.channels_last)
        captions = dropped(batch["captions"], self.settings.drop_text, generator)
        text = text_condition(self.clip, batch, captions)
        z_i = self.embeddings(batch)
        draws = uniform(len(z_i), generator=generator)
        x_t, t, noise = self.process.draw(x0, generator)
        condition = self._condition(z_i, text, draws < self.settings.drop_image)
        if self.settings.inpainting:
            x_t = torch.cat([x_t, self.masked(x0, generator)], dim=1)
        output = self.network.decoder(x_t, t, **condition)
        return self.process.loss(output, x0, noise, t)

    def masked(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """Mask channels (N, C + 1, h, w) with random parts of x0 (N, C, h, w) erased."""
        unknown = random_masks(len(x0), self.side, generator, self.settings.drop_known)
        return mask_channels(x0, unknown, self.network.masks is not None)

    @torch.no_grad()
    def errors(self, batch: Batch, t: int, noise: Tensor) -> Tensor:
        """The squared error (N,) of each image at one timestep, with its own z_i and caption.

        Args:
            noise: (C, h, w), the same for all images.
        """
        x0 = self.space.encode(batch["images"]).contiguous(memory_format=torch.channels_last)
        text = text_condition(self.clip, batch, batch["captions"])
        condition = self._condition(self.embeddings(batch), text, None)
        times = torch.full((len(x0),), t, device=x0.device)
        noise = noise.to(x0.device).expand_as(x0)
        x_t = self.process.schedule.q_sample(x0, times, noise)
        beside = self._beside(None, x0.device)
        if beside is not None:
            x_t = torch.cat([x_t, beside.expand(len(x0), -1, -1, -1)], dim=1)
        output = self.network.decoder(x_t, times, **condition)
        predicted, _ = self.process.split(output.float(), x0.shape[1])
        return self.process.errors(predicted, x0, noise, times)[0]

    @torch.no_grad()
    def sample(
        self,
        z_i: Tensor,
        text: TextCondition,
        sampling: Sampling,
        noise: Noise,
        null: TextCondition | None = None,
        callback: Callback | None = None,
        start: Tensor | None = None,
        known: Known | None = None,
    ) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] for z_i (N, D) and N captions.

        Args:
            z_i: z_t for a decoder of text embeddings; GLIDE does not read it.
            null: the empty caption; encoded here if it is not given. Without guidance's condition
                the decoder sees it and the learned null embedding.
            start: x_T (N, C, h, w), as `invert` gives it; fresh noise if left out.
            known: what is known of the images, in pixels, on their device, and kept.
        """
        space, side = self.space, self.side
        if known is not None:
            known = Known(space.encode(known.x0), pooled(known.unknown, space.factor))
        denoiser = self._denoiser(z_i, text, sampling, null, known)
        like = torch.empty(len(z_i), space.channels, side, side, device=z_i.device)
        like = like.contiguous(memory_format=torch.channels_last)
        x0 = self.process.sample(denoiser, like, sampling, noise, callback, start, known)
        return space.decode(x0)

    @torch.no_grad()
    def invert(
        self,
        images: Tensor,
        z_i: Tensor,
        text: TextCondition,
        sampling: Sampling,
        callback: Callback | None = None,
    ) -> Tensor:
        """x_T (N, C, h, w), from which `sample` by DDIM with η = 0 makes `images` (N, 3, H, W).

        Where the callback stops it, this is the x_t that was reached, which leads nowhere.
        """
        denoiser = self._denoiser(z_i, text, sampling, None)
        return self.process.invert(denoiser, self.space.encode(images), sampling, callback)

    def distils(self, sampling: Sampling) -> bool:
        """Whether one evaluation can give what guidance gives with two, sampled like this."""
        if self.student is None:
            return sampling.guidance.scale == 1
        return self.student.samples(sampling)

    def check_distilled(self, sampling: Sampling) -> Student:
        """The student, or a ValueError where there is none, or it has not learned this."""
        scale = sampling.guidance.one_scale
        if self.student is None:
            raise ValueError(
                f"distilled guidance at scale {scale:g} was asked for, but this model has no "
                f"{STUDENT}: leave it out, and both branches are computed"
            )
        if not self.student.samples(sampling):
            self.student.check(sampling)
        return self.student

    def widen(self) -> None:
        """Give a decoder without mask channels some, which it does not read yet."""
        self.settings = replace(self.settings, inpainting=True)
        masks = fresh_masks(self.network.decoder.config).to(self.network.decoder.conv_in.weight)
        self.network.add(masks.to(memory_format=torch.channels_last))  # type: ignore[call-overload]

    def drop_masks(self) -> None:
        """Take mask channels that are an addition away again: what it makes of nothing known stays
        what it was."""
        self.settings = replace(self.settings, inpainting=False)
        self.network.masks = self.network.decoder.beside = None

    def _denoiser(
        self,
        z_i: Tensor,
        text: TextCondition,
        sampling: Sampling,
        null: TextCondition | None,
        known: Known | None = None,
    ) -> Denoiser:
        """The network, conditioned and guided, as samplers see it."""
        plan, guidance = self.process.plan(sampling), sampling.guidance
        student: Student | None = None
        if guidance.distilled and plan.active:
            student = self.check_distilled(sampling)
        taught = student.takes(plan) if student else _never

        def branches(t: float) -> bool:
            return plan.guided(t) and not taught(t)

        twice = any(map(branches, plan.timesteps))
        condition = (
            self.both_conditions(z_i, text, null) if twice else self._condition(z_i, text, None)
        )
        given: dict[str, Any] = {
            **condition,
            "reuse": sampling.reuse if known is None else 1,  # inpainting goes back and forth
            # Where one takes over from the other, its last features are of steps that lie far back.
            "fresh": [t for s, t in pairwise(plan.timesteps) if taught(s) != taught(t)],
            "keep_kernels": True,
        }
        own = [t for t in plan.timesteps if not taught(t)]
        network = answers(self.network.decoder, own, given, len(z_i))
        if student is not None:
            others = [t for t in plan.timesteps if taught(t)]
            network = handing_over(
                network, student.answers(others, guidance.one_scale, given), taught
            )
        network = beside_known(network, self._beside(known, z_i.device))
        output = guide(network, guidance, branches, self.space.channels)
        return self.process.denoiser(output, sampling.threshold)

    def _beside(self, known: Known | None, device: torch.device) -> Tensor | None:
        """What the mask channels, if it has them, hold in sampling: (N or 1, C + 1, h, w)."""
        if not self.settings.inpainting or (known is None and self.network.masks is not None):
            return None
        if known is None:
            unknown = torch.ones(1, 1, self.side, self.side, dtype=torch.bool, device=device)
            nothing = torch.zeros(1, self.space.channels, self.side, self.side, device=device)
            known = Known(nothing, unknown)
        return mask_channels(known.x0, known.unknown, self.network.masks is not None)

    def embeddings(self, batch: Batch) -> Tensor:
        """What is in z_i's place in training (N, D)."""
        if self.settings.condition == "image":
            return image_embeddings(self.clip, batch)
        if self.settings.condition == "text_embedding":
            return text_condition(self.clip, batch, batch["captions"]).z_t
        images = batch["images"]
        return torch.zeros(len(images), self.clip.width, device=images.device)  # read by nobody

    def both_conditions(
        self, z_i: Tensor, text: TextCondition, null: TextCondition | None = None
    ) -> dict[str, Tensor]:
        """What the U-Net is conditioned on in both branches of guidance: N rows with z_i and the
        caption, then N without. `null` is the empty caption, encoded here if it is not given."""
        count = len(z_i)
        text = text + (null or self.clip.text([""])).expand(count)
        absent = torch.arange(2 * count, device=z_i.device) >= count
        return self._condition(torch.cat([z_i, z_i]), text, absent)

    def _condition(
        self, z_i: Tensor, text: TextCondition, null: Tensor | None
    ) -> dict[str, Tensor]:
        """What the U-Net is conditioned on; it does not depend on the timestep."""
        projection, text_encoder = self.network.text_proj, self.network.text_encoder
        if text_encoder is not None:
            z_t, hidden = text_encoder(text.ids, text.mask)
            text = replace(text, z_t=z_t, hidden=hidden)
        if self.settings.condition == "caption":
            null = torch.ones(len(z_i), dtype=torch.bool, device=z_i.device)
        time_condition, context = projection(z_i, text.z_t, text.hidden, null)
        mask = projection.context_mask(text.mask)
        return {"time_condition": time_condition, "context": context, "context_mask": mask}

    def suits(self) -> dict[str, Any]:
        """By diffusion; guided where z_i and captions were dropped."""
        return of_decoder(self.settings.guidable)

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """Originals above what the decoder makes of their embeddings and captions.

        With mask channels, also the originals without a square, and what it completes them to.
        """
        images = batch["images"]
        text = text_condition(self.clip, batch, batch["captions"])
        z_i = self.embeddings(batch)
        sampling, noise = Sampling(25, "ddim", Guidance(2.0)), noise_from(generator)
        rows = [images, self.sample(z_i, text, sampling, noise)]
        if self.settings.inpainting:
            unknown = torch.zeros_like(images[:1, :1], dtype=torch.bool)
            unknown[..., self.size // 4 : -self.size // 4, self.size // 4 : -self.size // 4] = True
            known = Known(images, unknown)
            rows.append(images.masked_fill(unknown, 0))
            rows.append(self.sample(z_i, text, sampling, noise, known=known))
        return torch.stack(rows)

    def is_in(self, folder: ModelFolder) -> bool:
        """Whether the folder has these networks' weights."""
        network = self.network
        own = [network.decoder, network.text_proj, network.text_encoder, network.masks]
        mine = fingerprint_of(part.state_dict() for part in own if part is not None)
        return folder.fingerprint(*TEACHER) == mine

    @together
    def save(self, folder: ModelFolder) -> None:
        """decoder, text_proj, decoder_scheduler and, if it has them, decoder_text_encoder,
        decoder_masks and decoder_distilled. A student that is there and another decoder's is
        removed first."""
        if folder.has(STUDENT) and not self.is_in(folder):
            folder.remove(STUDENT)
        save_network(folder, self.network, self.process.config)
        save_scheduler(folder, "decoder_scheduler", self.process.config)
        if self.settings.note != DecoderSettings().note or NOTE in folder.index():
            folder.update_index({NOTE: self.settings.note})
        if self.student is not None:
            self.student.save(folder)


def _never(t: float) -> bool:
    return False
