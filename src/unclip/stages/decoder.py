"""The decoder: P(x | z_i, y) by diffusion with guidance and learned variances (section 2.1).

And the two that the paper compares it with, on the same networks: GLIDE, P(x | y), where the
learned null embedding is always in z_i's place; and the text-embedding decoder, which gets the
caption's z_t there. Neither needs a prior.

Any of them can have a student, which takes one evaluation where guidance takes two
(`stages/distillation.py`).

Any of them can have mask channels (`inpainting`; GLIDE, section 2.4): it then sees beside x_t what
is known of the image. Without, `sample` still keeps what is known.

Shapes: N images, C = 3 channels, H × W pixels at the decoder's resolution.
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import torch
from torch import Tensor, nn

from unclip.checks import shown
from unclip.config import (
    Between,
    Checked,
    Dropout,
    Layers,
    Probability,
    Scale,
    Width,
    Widths,
    from_mapping,
)
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.inpainting import Known
from unclip.diffusion.inversion import ending_in_data, invert
from unclip.diffusion.losses import LossConfig, diffusion_loss
from unclip.diffusion.prediction import Denoiser, Noise, Prediction, to_prediction
from unclip.diffusion.samplers import Callback, Stop, noise_from
from unclip.diffusion.schedules import DiffusionConfig, PredictionType
from unclip.networks.clip import TextEncoder
from unclip.networks.clip_config import CLIPTextConfig
from unclip.networks.decoder import TextProjection, TextProjectionConfig, text_projection_config
from unclip.networks.unet import UNet, UNetConfig
from unclip.networks.unet_config import adm_config
from unclip.stages.base import (
    Batch,
    Process,
    Sampling,
    check_channels,
    guide,
    scheduler_from_json,
    scheduler_json,
)
from unclip.stages.conditioning import FrozenCLIP, TextCondition, dropped
from unclip.stages.masks import CHANNELS, mask_channels, random_masks
from unclip.storage.folder import ModelFolder, together
from unclip.storage.weights import fingerprint_of

TEXT_ENCODER = "decoder_text_encoder"
TEACHER = ("decoder", "text_proj", TEXT_ENCODER)  # what a student belongs to
STUDENT = "decoder_distilled"
_STUDENT_NOTE = f"_{STUDENT}"  # in the index: the guidance scales that the student has learned
_TWO_WAY = ("unclip", "TextEncoder")  # in the index: no library knows it
_NOTE = "_decoder"  # in the index: what the decoder is conditioned on, where it is not unCLIP's


@dataclass(frozen=True)
class DecoderSettings(Checked):
    """What is chosen about a decoder before it is trained."""

    widths: Widths = (64, 128, 192)  # channels from the finest level to the coarsest
    layers: Annotated[int, Between(1, 32)] = 2  # resnet blocks a level
    attend_from: Annotated[int, Between(0, 8)] = 1  # finest level with attention
    head_width: Width = 32
    groups: Width = 16
    context_width: Width = 192
    dropout: Dropout = 0.0
    prediction_type: PredictionType = "epsilon"
    drop_image: Probability = 0.1  # z_i dropped for guidance (section 2.1)
    drop_text: Probability = 0.5  # captions dropped (section 2.1)
    # What is in z_i's place: the image's embedding (unCLIP), nothing (GLIDE), or the caption's z_t.
    condition: Literal["image", "caption", "text_embedding"] = "image"
    # Whose are the caption's tokens and the vector beside the timestep: the frozen CLIP's, as in
    # published models, or a text Transformer's that is trained with the decoder, as in the paper.
    caption_tokens: Literal["clip", "own"] = "clip"
    text_layers: Layers = 4  # of the Transformer of its own, which else has the sizes of CLIP's
    inpainting: bool = False  # mask channels; with `training.init`, they are added where need be
    loss: LossConfig = field(default_factory=LossConfig)

    @property
    def note(self) -> dict[str, Any]:
        """What a model folder must say of a decoder beyond its networks."""
        keys = ("condition", "caption_tokens", "inpainting")
        return {key: getattr(self, key) for key in keys}

    @property
    def in_channels(self) -> int:
        """Of the U-Net: x_t, and what is known."""
        return 3 + CHANNELS * self.inpainting

    @classmethod
    def noted(cls, folder: ModelFolder) -> Self:
        """The settings that a model folder notes; unCLIP's where it notes none."""
        note = folder.index().get(_NOTE, {})
        return from_mapping(cls, note, f"{folder.path}: {_NOTE}")


class DecoderNetwork(nn.Module):
    """The decoder's components: what z_i and the caption become, and the U-Net.

    `text_encoder` is the text Transformer of its own, if it has one. It has the modules of CLIP's,
    but its tokens attend to each other both ways, as those of GLIDE's, whose code masks nothing but
    padding: what is said of the first object can so depend on the words that follow. Its vector is
    read at the end token.
    """

    def __init__(
        self, decoder: UNet, text_proj: TextProjection, text_encoder: TextEncoder | None = None
    ) -> None:
        super().__init__()
        self.decoder, self.text_proj, self.text_encoder = decoder, text_proj, text_encoder


@dataclass(frozen=True)
class Student:
    """A U-Net that gives the guided prediction at once, at scales in a range."""

    network: UNet
    scales: tuple[float, float]


class DecoderStage:
    """Networks, process and frozen CLIP of the decoder, and its student, if it has one."""

    def __init__(
        self,
        network: DecoderNetwork,
        clip: FrozenCLIP,
        process: DiffusionConfig,
        settings: DecoderSettings,
        student: Student | None = None,
    ) -> None:
        # Convolutions run faster on channels-last tensors, on CPUs and GPUs alike.
        self.network: DecoderNetwork = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.clip, self.settings, self.student = clip, settings, student
        if student is not None:
            student.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.process = Process(process)

    @classmethod
    def build(cls, settings: DecoderSettings, clip: FrozenCLIP, size: int) -> Self:
        """A fresh decoder for images of `size` pixels a side."""
        config = adm_config(
            size,
            settings.widths,
            settings.layers,
            in_channels=settings.in_channels,
            out_channels=6,
            context_width=settings.context_width,
            attend_from=settings.attend_from,
            head_width=settings.head_width,
            groups=settings.groups,
            dropout=settings.dropout,
        )
        text_proj = TextProjection(text_projection_config(config, clip.width))
        process = DiffusionConfig(
            variance_type="learned_range", prediction_type=settings.prediction_type
        )
        network = DecoderNetwork(UNet(config), text_proj)
        if settings.caption_tokens == "own":
            sizes = replace(clip.text_encoder.config, num_hidden_layers=settings.text_layers)
            network.text_encoder = TextEncoder(sizes)
        return cls(network, clip, process, settings)

    @classmethod
    def load(cls, folder: ModelFolder, clip: FrozenCLIP, dtype: torch.dtype | None = None) -> Self:
        """Read `decoder`, `text_proj`, `decoder_scheduler` and, where the folder notes that there
        is one, `decoder_text_encoder` of a model folder; `decoder_distilled` where it is there."""
        config = UNetConfig.from_json(folder.config("decoder"), str(folder.path / "decoder"))
        projection = TextProjectionConfig.from_json(
            folder.config("text_proj"), str(folder.path / "text_proj")
        )
        if projection.clip_embeddings_dim != clip.width:
            raise ValueError(
                f"{folder.path}: the decoder takes embeddings of width "
                f"{projection.clip_embeddings_dim}, but the text encoder's have width "
                f"{clip.width}: they are not of one model"
            )
        wanted = text_projection_config(config, clip.width)
        for key in ("time_embed_dim", "cross_attention_dim"):
            if getattr(projection, key) != getattr(wanted, key):
                raise ValueError(
                    f"{folder.path}: text_proj has {key} {getattr(projection, key)}, the decoder "
                    f"{getattr(wanted, key)}: they are not of one model"
                )
        process = scheduler_from_json(folder, "decoder_scheduler")
        settings = DecoderSettings.noted(folder)
        check_channels(config, settings.in_channels, process, str(folder.path / "decoder"))
        network = DecoderNetwork(
            folder.load("decoder", UNet, config, dtype),
            folder.load("text_proj", TextProjection, projection, dtype),
        )
        if settings.caption_tokens == "own":
            network.text_encoder = _load_text_encoder(folder, clip, dtype)
        student = _load_student(folder, config, dtype) if folder.has(STUDENT) else None
        return cls(network, clip, process, settings, student)

    def with_student(self, student: Student | None) -> "DecoderStage":
        """The same decoder with another student."""
        return DecoderStage(self.network, self.clip, self.process.config, self.settings, student)

    @property
    def needs_prior(self) -> bool:
        """Whether a caption alone is not enough: z_i must come from somewhere."""
        return self.settings.condition == "image"

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return self.network.decoder.config.sample_size

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """L_hybrid on images, with z_i and captions dropped independently."""
        images = batch["images"].contiguous(memory_format=torch.channels_last)
        text = self.clip.text(dropped(batch["captions"], self.settings.drop_text, generator))
        z_i = self.embeddings(batch)
        draws = torch.rand(len(z_i), generator=generator, device=z_i.device)
        x_t, t, noise = self.process.draw(images, generator)
        condition = self._condition(z_i, text, draws < self.settings.drop_image)
        if self.settings.inpainting:
            unknown = random_masks(len(images), self.size, generator)
            x_t = torch.cat([x_t, mask_channels(images, unknown)], dim=1)
        output = self.network.decoder(x_t, t, **condition)
        process = self.process
        return diffusion_loss(
            output, images, noise, t, process.schedule, process.config, self.settings.loss
        )

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
            start: x_T (N, 3, H, W), as `invert` gives it; fresh noise if left out.
            known: what is known of the images, on their device, and kept.
        """
        denoiser = self._denoiser(z_i, text, sampling, null, known)
        if start is not None:
            denoiser = ending_in_data(denoiser, self.process.schedule)
        like = torch.empty(len(z_i), 3, self.size, self.size, device=z_i.device)
        like = like.contiguous(memory_format=torch.channels_last)
        return self.process.sample(denoiser, like, sampling, noise, callback, start, known)

    @torch.no_grad()
    def invert(
        self,
        images: Tensor,
        z_i: Tensor,
        text: TextCondition,
        sampling: Sampling,
        callback: Callback | None = None,
    ) -> Tensor:
        """x_T (N, 3, H, W), from which `sample` by DDIM with η = 0 makes `images` (N, 3, H, W).

        Where the callback stops it, this is the x_t that was reached, which leads nowhere.
        """
        process = self.process
        denoiser = self._denoiser(z_i, text, sampling, None)
        denoiser = ending_in_data(denoiser, process.schedule)
        timesteps = process.timesteps(sampling)
        try:
            return invert(denoiser, images, process.schedule, timesteps, callback=callback)
        except Stop as stop:
            return stop.x

    def distils(self, scale: float) -> bool:
        """Whether one evaluation can give what guidance at this scale gives with two."""
        low, high = self.student.scales if self.student else (1, 1)
        return scale == 1 or low <= scale <= high

    def check_distilled(self, scale: float) -> Student:
        """The student, or a ValueError where there is none, or it has not learned the scale."""
        asked = f"distilled guidance at scale {scale:g} was asked for"
        if self.student is None:
            raise ValueError(
                f"{asked}, but this model has no {STUDENT}: leave it out, and both branches are "
                "computed"
            )
        if not self.distils(scale):
            low, high = self.student.scales
            raise ValueError(
                f"{asked}, but this model's {STUDENT} knows scales from {low:g} to {high:g}: leave "
                "it out, and both branches are computed"
            )
        return self.student

    def widen(self) -> None:
        """Give a decoder without mask channels some, which it does not read yet."""
        self.network.decoder.widen(3 + CHANNELS)
        self.settings = replace(self.settings, inpainting=True)

    def _denoiser(
        self,
        z_i: Tensor,
        text: TextCondition,
        sampling: Sampling,
        null: TextCondition | None,
        known: Known | None = None,
    ) -> Denoiser:
        """The network, conditioned and guided, as samplers see it."""
        count, decoder, guidance = len(z_i), self.network.decoder, sampling.guidance
        timesteps = self.process.timesteps(sampling).tolist()
        at = self.process.guided(sampling)
        condition = (
            self.both_conditions(z_i, text, null) if at else self._condition(z_i, text, None)
        )
        reuse = sampling.reuse if known is None else 1  # inpainting goes back and forth
        shared: dict[str, Any] = {**condition, "reuse": reuse, "keep_kernels": True}
        # With distilled guidance the student computes what is guided, the decoder the rest.
        taught = self.process.active(sampling) if guidance.distilled else frozenset()
        own = [t for t in timesteps if t not in taught]
        # Where one takes over from the other, its last features are of steps that lie far back.
        shared["fresh"] = [t for s, t in pairwise(timesteps) if (s in taught) != (t in taught)]
        if own:
            both = decoder.conditions(own, **shared)
            conditional = both[:count]
        if taught:
            student = self.check_distilled(guidance.scale).network
            guided = [t for t in timesteps if t in taught]
            scales = [guidance.scale] * len(guided)
            learned = student.conditions(guided, **shared, guidance_scales=scales)
        beside = self._beside(known, z_i.device)

        def network(x: Tensor, t: int, guided: bool) -> Tensor:
            if beside is not None:
                x = torch.cat([x, beside.to(x.dtype).repeat(len(x) // len(beside), 1, 1, 1)], dim=1)
            x = x.contiguous(memory_format=torch.channels_last)  # at every step alike
            if t in taught:
                return student.proceed(x, t, learned)
            return decoder.proceed(x, t, both if guided else conditional)

        output = guide(network, guidance, at, 3)

        def denoiser(x: Tensor, t: Tensor) -> Prediction:
            return to_prediction(output(x, t), x, t, self.process.schedule, self.process.config)

        return denoiser

    def _beside(self, known: Known | None, device: torch.device) -> Tensor | None:
        """What the mask channels, if it has them, hold in sampling: (N or 1, 4, H, W)."""
        if not self.settings.inpainting:
            return None
        if known is None:
            unknown = torch.ones(1, 1, self.size, self.size, dtype=torch.bool, device=device)
            known = Known(torch.zeros(1, 3, self.size, self.size, device=device), unknown)
        return mask_channels(known.x0, known.unknown)

    def embeddings(self, batch: Batch) -> Tensor:
        """What is in z_i's place in training (N, D)."""
        if self.settings.condition == "image":
            return self.clip.image(batch["images"])
        if self.settings.condition == "text_embedding":
            return self.clip.text(batch["captions"]).z_t
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

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """Originals above what the decoder makes of their embeddings and captions.

        With mask channels, also the originals without a square, and what it completes them to.
        """
        images = batch["images"]
        text, z_i = self.clip.text(batch["captions"]), self.embeddings(batch)
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
        own = [network.decoder, network.text_proj, *filter(None, [network.text_encoder])]
        mine = fingerprint_of(part.state_dict() for part in own)
        return folder.fingerprint(*TEACHER) == mine

    @together
    def save(self, folder: ModelFolder) -> None:
        """decoder, text_proj, decoder_scheduler and, if it has them, decoder_text_encoder and
        decoder_distilled. One that is there and another decoder's is removed first."""
        if folder.has(STUDENT) and not self.is_in(folder):
            folder.remove(STUDENT)
        decoder, text_proj = self.network.decoder, self.network.text_proj
        folder.save(
            "decoder",
            ("diffusers", decoder.config.class_name),
            {"config.json": decoder.config.to_json()},
            self._published(decoder),
        )
        folder.save(
            "text_proj",
            ("unclip", text_proj.config.class_name),
            {"config.json": text_proj.config.to_json()},
            text_proj.state_dict(),
        )
        folder.save(
            "decoder_scheduler",
            ("diffusers", "UnCLIPScheduler"),
            {"scheduler_config.json": scheduler_json(self.process.config)},
        )
        text_encoder = self.network.text_encoder
        if text_encoder is not None:
            folder.save(
                TEXT_ENCODER,
                _TWO_WAY,
                {"config.json": text_encoder.config.to_json()},
                text_encoder.state_dict(),
                stem="model",
            )
        elif folder.has(TEXT_ENCODER):
            folder.remove(TEXT_ENCODER)
        if self.settings.note != DecoderSettings().note or _NOTE in folder.index():
            folder.update_index({_NOTE: self.settings.note})
        if self.student is not None:
            save_student(folder, self.student)

    def _published(self, network: UNet) -> dict[str, Tensor]:
        """Its weights, the untrained variance half of an x_0 predictor a constant: v = 0, β̃."""
        weights = network.state_dict()
        if self.process.config.trains_variance or "conv_out.weight" not in weights:
            return weights
        weight, bias = weights["conv_out.weight"].clone(), weights["conv_out.bias"].clone()
        weight[3:], bias[3:] = 0.0, -1.0  # the half holds 2 v - 1
        return weights | {"conv_out.weight": weight, "conv_out.bias": bias}


def save_student(folder: ModelFolder, student: Student) -> None:
    """decoder_distilled, and the scales that it has learned."""
    with folder.publishing():
        folder.update_index({_STUDENT_NOTE: {"guidance_scales": list(student.scales)}})
        folder.save(
            STUDENT,
            ("diffusers", student.network.config.class_name),
            {"config.json": student.network.config.to_json()},
            student.network.state_dict(),
        )


@dataclass(frozen=True)
class _StudentNote(Checked):
    guidance_scales: tuple[Scale, Scale]


def _load_student(folder: ModelFolder, teacher: UNetConfig, dtype: torch.dtype | None) -> Student:
    """The student of the folder's decoder, of which it differs by the scale's embedding alone."""
    where = str(folder.path / STUDENT)
    config = UNetConfig.from_json(folder.config(STUDENT), where)
    width = config.time_cond_proj_dim
    if width is None or replace(teacher, time_cond_proj_dim=width) != config:
        raise ValueError(
            f"{where} must have the sizes of the decoder, and a time_cond_proj_dim: they are not "
            "of one model"
        )
    noted = folder.index().get(_STUDENT_NOTE)
    if not isinstance(noted, dict):
        raise ValueError(
            f"{folder.path}: {_STUDENT_NOTE} is {shown(noted)}; it must be an object that says the "
            "guidance_scales"
        )
    note = from_mapping(_StudentNote, noted, f"{folder.path}: {_STUDENT_NOTE}")
    return Student(folder.load(STUDENT, UNet, config, dtype), note.guidance_scales)


def _load_text_encoder(
    folder: ModelFolder, clip: FrozenCLIP, dtype: torch.dtype | None
) -> TextEncoder:
    """The decoder's own text Transformer, which reads the tokens of the folder's CLIP."""
    where = str(folder.path / TEXT_ENCODER)
    if folder.has(TEXT_ENCODER) and folder.index()[TEXT_ENCODER][1] != _TWO_WAY[1]:
        raise ValueError(
            f"{where} was trained by a version of unclip whose own text Transformer read captions "
            "in one direction only; train the decoder anew with --overwrite"
        )
    config = CLIPTextConfig.from_json(folder.config(TEXT_ENCODER), where)
    theirs = clip.text_encoder.config
    for key in ("vocab_size", "max_position_embeddings", "hidden_size", "projection_dim"):
        if getattr(config, key) != getattr(theirs, key):
            raise ValueError(
                f"{where} has {key} {getattr(config, key)}, the text encoder "
                f"{getattr(theirs, key)}: they are not of one model"
            )
    return folder.load(TEXT_ENCODER, TextEncoder, config, dtype)
