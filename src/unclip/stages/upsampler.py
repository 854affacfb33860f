"""The upsamplers: diffusion of the large image beside the small one (section 2.1).

Shapes: N images, h × w pixels of the small image, H × W of the large one, f = H / h.
"""

from dataclasses import dataclass, field
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.diffusion.losses import LossConfig, diffusion_loss
from unclip.diffusion.prediction import Noise, Prediction, to_prediction
from unclip.diffusion.samplers import Callback, noise_from
from unclip.diffusion.schedules import DiffusionConfig
from unclip.models.folder import ModelFolder
from unclip.models.precision import full_precision
from unclip.models.unet import UNet, UNetConfig
from unclip.models.unet_config import adm_config
from unclip.models.upsampler import upsample_bicubic, upsampler_input
from unclip.stages.base import (
    Batch,
    Process,
    Sampling,
    check_channels,
    scheduler_from_json,
    scheduler_json,
    shared_timestep,
)

FIRST, LAST = "super_res_first", "super_res_last"


@dataclass(frozen=True)
class UpsamplerSettings:
    """What is chosen about an upsampler before it is trained."""

    factor: int = 4  # the paper: 64 → 256
    widths: tuple[int, ...] = (32, 64, 128, 192)
    layers: int = 1
    groups: int = 16
    dropout: float = 0.0
    prediction_type: str = "epsilon"
    beta_schedule: str = "squaredcos_cap_v2"
    crop: int = 4  # trained on crops of 1/crop of the side (section 2.1)
    blur_sigma: float = 0.6  # of the Gaussian that corrupts the small image, 3 × 3 (section 2.1)
    loss: LossConfig = field(default_factory=LossConfig)


class UpsamplerStage:
    """Network and process of one upsampler.

    Args:
        last: the network of the last sampling step, where it is another one: published models have
            such a `super_res_last`, trained to end in few steps.
    """

    def __init__(
        self,
        network: UNet,
        process: DiffusionConfig,
        settings: UpsamplerSettings,
        last: UNet | None = None,
    ) -> None:
        self.network: UNet = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.last: UNet | None = last and last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.settings = settings
        self.process = Process(process)

    @classmethod
    def build(cls, settings: UpsamplerSettings, size: int) -> Self:
        """A fresh upsampler to images of `size` pixels a side."""
        config = adm_config(
            size,
            settings.widths,
            settings.layers,
            in_channels=6,
            groups=settings.groups,
            dropout=settings.dropout,
        )
        multiple = settings.factor * settings.crop * config.downsampling
        if size % settings.factor or (size // settings.crop) % config.downsampling:
            raise ValueError(
                f"data.size {size} does not fit: crops of 1/{settings.crop} of it must divide by "
                f"{config.downsampling}; take a multiple of {multiple}"
            )
        process = DiffusionConfig(
            prediction_type=settings.prediction_type, beta_schedule=settings.beta_schedule
        )
        return cls(UNet(config), process, settings)

    @classmethod
    def load(cls, folder: ModelFolder, component: str, dtype: torch.dtype | None = None) -> Self:
        """Read an upsampler and `super_res_scheduler` of a model folder.

        Beside `super_res_first`, `super_res_last` is read where its weights are others.
        """
        process = scheduler_from_json(folder, "super_res_scheduler")
        network = _load(folder, component, process, dtype)
        last = None
        if component == FIRST and folder.has(LAST) and not folder.same(FIRST, LAST):
            last = _load(folder, LAST, process, dtype)
            if last.config.sample_size != network.config.sample_size:
                raise ValueError(
                    f"{folder.path}: {FIRST} makes {network.config.sample_size} pixels and {LAST} "
                    f"{last.config.sample_size}: they are not of one model"
                )
        return cls(network, process, UpsamplerSettings(), last)

    @property
    def networks(self) -> list[UNet]:
        return [self.network] if self.last is None else [self.network, self.last]

    @property
    def size(self) -> int:
        """Pixels of a side of the large image."""
        return self.network.config.sample_size

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Noise prediction on crops, conditioned on the blurred small image."""
        images = batch["images"]
        side = images.shape[-1]
        with full_precision(images.device):
            small = F.interpolate(images, size=side // self.settings.factor, mode="area")
            upsampled = upsample_bicubic(blur(small, self.settings.blur_sigma), (side, side))
        pair = torch.cat([images, upsampled], dim=1)  # (N, 6, H, W): cropped alike
        x0, condition = random_crops(pair, side // self.settings.crop, generator).chunk(2, dim=1)
        x_t, t, noise = self.process.draw(x0, generator)
        output = self.network(_channels_last(upsampler_input(x_t, condition)), t)
        process = self.process
        return diffusion_loss(
            output, x0, noise, t, process.schedule, process.config, self.settings.loss
        )

    @torch.no_grad()
    def sample(
        self,
        small: Tensor,
        sampling: Sampling,
        noise: Noise,
        callback: Callback | None = None,
    ) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] from small ones (N, 3, h, w)."""
        with full_precision(small.device):
            upsampled = upsample_bicubic(small.float(), (self.size, self.size))
        timesteps = self.process.timesteps(sampling).tolist()
        conditions = self.network.conditions(timesteps)

        def denoiser(x: Tensor, t: Tensor) -> Prediction:
            step, inputs = shared_timestep(t), _channels_last(upsampler_input(x, upsampled))
            if self.last is not None and step == timesteps[-1]:
                output = self.last.proceed(inputs, step, self.last.conditions([step]))
            else:
                output = self.network.proceed(inputs, step, conditions)
            return to_prediction(output, x, t, self.process.schedule, self.process.config)

        return self.process.sample(denoiser, torch.empty_like(upsampled), sampling, noise, callback)

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """Originals, bicubic enlargements, and what the upsampler makes of the small images."""
        images = batch["images"][:4]
        side = images.shape[-1]
        small = F.interpolate(images, size=side // self.settings.factor, mode="area")
        made = self.sample(small, Sampling(7, "ddim"), noise_from(generator))
        with full_precision(images.device):
            bicubic = upsample_bicubic(small, (side, side))
        return torch.stack([images, bicubic, made])

    def save(self, folder: ModelFolder) -> None:
        """super_res_first, super_res_last and super_res_scheduler.

        A single upsampler does the last step too: super_res_last is then the same files again
        (hard links where the disk has them), which the published layout needs to be complete.
        """
        for name, network in ((FIRST, self.network), (LAST, self.last)):
            if network is None:
                folder.duplicate(FIRST, LAST)
                continue
            folder.save(
                name,
                ("diffusers", network.config.class_name),
                {"config.json": network.config.to_json()},
                network.state_dict(),
            )
        folder.save(
            "super_res_scheduler",
            ("diffusers", "UnCLIPScheduler"),
            {"scheduler_config.json": scheduler_json(self.process.config)},
        )


def _load(
    folder: ModelFolder, component: str, process: DiffusionConfig, dtype: torch.dtype | None
) -> UNet:
    where = str(folder.path / component)
    config = UNetConfig.from_json(folder.config(component), where)
    check_channels(config, 6, process, where)
    return folder.load(component, UNet, config, dtype)


def blur(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian of `sigma` pixels on 3 × 3 taps, edges mirrored; (N, C, H, W) → the same."""
    if sigma == 0:
        return images
    side = torch.exp(torch.tensor(-0.5 / sigma**2)).item()
    taps = torch.tensor([side, 1.0, side], device=images.device) / (1 + 2 * side)
    kernel = torch.outer(taps, taps).expand(images.shape[1], 1, 3, 3)
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, kernel, groups=images.shape[1])


def random_crops(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """One square crop of `side` pixels of each image, its place drawn uniformly."""
    height, width = images.shape[-2:]
    device = generator.device
    tops = torch.randint(height - side + 1, (len(images),), generator=generator, device=device)
    lefts = torch.randint(width - side + 1, (len(images),), generator=generator, device=device)
    places = zip(images, tops.tolist(), lefts.tolist(), strict=True)
    return torch.stack([x[:, top : top + side, left : left + side] for x, top, left in places])


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
