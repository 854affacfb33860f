"""The decoder: P(x | z_i, y) by diffusion with guidance and learned variances (section 2.1).

Shapes: N images, C = 3 channels, H × W pixels at the decoder's resolution.
"""

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from unclip.diffusion.guidance import Guidance
from unclip.diffusion.inversion import ending_in_data, invert
from unclip.diffusion.losses import LossConfig, diffusion_loss
from unclip.diffusion.prediction import Denoiser, Noise, Prediction, to_prediction
from unclip.diffusion.samplers import Callback, noise_from
from unclip.diffusion.schedules import DiffusionConfig
from unclip.models.decoder import TextProjection, TextProjectionConfig, text_projection_config
from unclip.models.folder import ModelFolder
from unclip.models.unet import UNet, UNetConfig
from unclip.models.unet_config import adm_config
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


@dataclass(frozen=True)
class DecoderSettings:
    """What is chosen about a decoder before it is trained."""

    widths: tuple[int, ...] = (64, 128, 192)  # channels from the finest level to the coarsest
    layers: int = 2  # resnet blocks a level
    attend_from: int = 1  # finest level with attention
    head_width: int = 32
    groups: int = 16
    context_width: int = 192
    dropout: float = 0.0
    prediction_type: str = "epsilon"
    drop_image: float = 0.1  # z_i dropped for guidance (section 2.1)
    drop_text: float = 0.5  # captions dropped (section 2.1)
    loss: LossConfig = field(default_factory=LossConfig)


class DecoderNetwork(nn.Module):
    """The decoder's two components: what z_i and the caption become, and the U-Net."""

    def __init__(self, decoder: UNet, text_proj: TextProjection) -> None:
        super().__init__()
        self.decoder, self.text_proj = decoder, text_proj


class DecoderStage:
    """Networks, process and frozen CLIP of the decoder."""

    def __init__(
        self,
        network: DecoderNetwork,
        clip: FrozenCLIP,
        process: DiffusionConfig,
        settings: DecoderSettings,
    ) -> None:
        # Convolutions run faster on channels-last tensors, on CPUs and GPUs alike.
        self.network: DecoderNetwork = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.clip, self.settings = clip, settings
        self.process = Process(process)

    @classmethod
    def build(cls, settings: DecoderSettings, clip: FrozenCLIP, size: int) -> Self:
        """A fresh decoder for images of `size` pixels a side."""
        config = adm_config(
            size,
            settings.widths,
            settings.layers,
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
        return cls(DecoderNetwork(UNet(config), text_proj), clip, process, settings)

    @classmethod
    def load(cls, folder: ModelFolder, clip: FrozenCLIP, dtype: torch.dtype | None = None) -> Self:
        """Read `decoder`, `text_proj` and `decoder_scheduler` of a model folder."""
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
        check_channels(config, 3, process, str(folder.path / "decoder"))
        network = DecoderNetwork(
            folder.load("decoder", UNet, config, dtype),
            folder.load("text_proj", TextProjection, projection, dtype),
        )
        return cls(network, clip, process, DecoderSettings())

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return self.network.decoder.config.sample_size

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """L_hybrid on images, with z_i and captions dropped independently."""
        images = batch["images"].contiguous(memory_format=torch.channels_last)
        text = self.clip.text(dropped(batch["captions"], self.settings.drop_text, generator))
        z_i = self.clip.image(images)
        draws = torch.rand(len(z_i), generator=generator, device=z_i.device)
        x_t, t, noise = self.process.draw(images, generator)
        condition = self._condition(z_i, text, draws < self.settings.drop_image)
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
    ) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] for z_i (N, D) and N captions.

        Args:
            null: the empty caption; encoded here if it is not given. Without guidance's condition
                the decoder sees it and the learned null embedding.
            start: x_T (N, 3, H, W), as `invert` gives it; fresh noise if left out.
        """
        denoiser = self._denoiser(z_i, text, sampling.guidance, null)
        if start is not None:
            denoiser = ending_in_data(denoiser, self.process.schedule)
        like = torch.empty(len(z_i), 3, self.size, self.size, device=z_i.device)
        like = like.contiguous(memory_format=torch.channels_last)
        return self.process.sample(denoiser, like, sampling, noise, callback, start)

    def invert(
        self,
        images: Tensor,
        z_i: Tensor,
        text: TextCondition,
        sampling: Sampling,
        callback: Callback | None = None,
    ) -> Tensor:
        """x_T (N, 3, H, W), from which `sample` by DDIM with η = 0 makes `images` (N, 3, H, W)."""
        process = self.process
        denoiser = self._denoiser(z_i, text, sampling.guidance, None)
        denoiser = ending_in_data(denoiser, process.schedule)
        timesteps = process.timesteps(sampling)
        return invert(denoiser, images, process.schedule, timesteps, callback=callback)

    def _denoiser(
        self, z_i: Tensor, text: TextCondition, guidance: Guidance, null: TextCondition | None
    ) -> Denoiser:
        """The network, conditioned and guided, as samplers see it."""
        null = null or self.clip.text([""])
        count = len(z_i)
        both = text + null.expand(count)
        absent = torch.arange(2 * count, device=z_i.device) >= count
        conditions = {
            True: self._condition(torch.cat([z_i, z_i]), both, absent),
            False: self._condition(z_i, text, None),
        }

        def network(x: Tensor, t: Tensor, guided: bool) -> Tensor:
            return self.network.decoder(x, t, **conditions[guided])  # type: ignore[no-any-return]

        output = guide(network, guidance, 3)

        def denoiser(x: Tensor, t: Tensor) -> Prediction:
            return to_prediction(output(x, t), x, t, self.process.schedule, self.process.config)

        return denoiser

    def _condition(
        self, z_i: Tensor, text: TextCondition, null: Tensor | None
    ) -> dict[str, Tensor]:
        """What the U-Net is conditioned on; it does not depend on the timestep."""
        projection = self.network.text_proj
        time_condition, context = projection(z_i, text.z_t, text.hidden, null)
        mask = projection.context_mask(text.mask)
        return {"time_condition": time_condition, "context": context, "context_mask": mask}

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """Originals above what the decoder makes of their embeddings and captions."""
        images = batch["images"]
        text, z_i = self.clip.text(batch["captions"]), self.clip.image(images)
        sampling = Sampling(25, "ddim", Guidance(2.0))
        made = self.sample(z_i, text, sampling, noise_from(generator))
        return torch.stack([images, made])

    def save(self, folder: ModelFolder) -> None:
        """decoder, text_proj and decoder_scheduler."""
        for name, library, network in (
            ("decoder", "diffusers", self.network.decoder),
            ("text_proj", "unclip", self.network.text_proj),
        ):
            folder.save(
                name,
                (library, network.config.class_name),
                {"config.json": network.config.to_json()},
                network.state_dict(),
            )
        folder.save(
            "decoder_scheduler",
            ("diffusers", "UnCLIPScheduler"),
            {"scheduler_config.json": scheduler_json(self.process.config)},
        )
