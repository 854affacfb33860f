"""The upsamplers: diffusion of the large image beside the small one (section 2.1).

Shapes: N images, h × w pixels of the small image, H × W of the large one, f = H / h.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.acceleration.tiling import tile_side, tiled
from unclip.batch import Batch
from unclip.checks import shown
from unclip.config import Between, Dropout, Probability, Width, Widths
from unclip.data.degradations import DegradedSource
from unclip.data.sources import Source, Stream
from unclip.device.precision import full_precision
from unclip.diffusion.inpainting import Known
from unclip.diffusion.losses import LossConfig
from unclip.diffusion.prediction import Noise, shared_timestep
from unclip.diffusion.process import Diffusion
from unclip.diffusion.samplers import Callback, noise_from
from unclip.diffusion.sampling import Sampling
from unclip.diffusion.schedules import BetaSchedule, DiffusionConfig, PredictionType
from unclip.draws import uniform
from unclip.networks.clip_config import CLIPTextConfig
from unclip.networks.unet import UNet, UNetConfig
from unclip.networks.unet_config import UNCONDITIONAL, adm_config
from unclip.networks.upsampler import SIZES, SIZES_1024, upsample_bicubic, upsampler_input
from unclip.pixels import to_signed
from unclip.stages.base import SCHEDULER, ComponentClasses, check_channels
from unclip.stages.crops import blur, random_crops
from unclip.stages.recipe import Data, Optimiser, Recipe, Training, open_data
from unclip.stages.sizes import BY_SIZE, Sized, size_of
from unclip.stages.spec import BuildContext, Probe, StageSpec
from unclip.stages.suiting import of_upsampler
from unclip.storage.folder import ModelFolder, together
from unclip.storage.scheduler import load_scheduler, save_scheduler

FIRST, LAST, SECOND = "super_res_first", "super_res_last", "super_res_1024"
SAMPLED_AS = {FIRST: "super_res", SECOND: SECOND}  # what arguments about its sampling begin with
SCHEDULERS = {FIRST: "super_res_scheduler", SECOND: "super_res_1024_scheduler"}


@dataclass(frozen=True)
class UpsamplerSettings(Sized):
    """What is chosen about an upsampler before it is trained."""

    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES

    # factor of enlargement (the paper: 64 → 256 → 1024); none of an upsampler whose folder has
    # nothing that it enlarges
    factor: Annotated[int, Between(2, 16)] | None = 4
    widths: Widths = BY_SIZE  # channels from the finest level to the coarsest, separated by spaces
    layers: Annotated[int, Between(1, 32)] = BY_SIZE  # resnet blocks a level
    groups: Width = BY_SIZE  # groups of the group normalisation
    dropout: Dropout = BY_SIZE  # probability of dropout within blocks
    prediction_type: PredictionType = "epsilon"  # prediction: the noise ε, the image x_0 or v
    beta_schedule: BetaSchedule = "squaredcos_cap_v2"  # schedule of the noise
    # divisor of the side: crops of that size are trained on (section 2.1)
    crop: Annotated[int, Between(1, 64)] = 4
    # damage to the small image (section 2.1): the first upsampler's a 3 × 3 Gaussian blur, the
    # second one's BSR, which the data workers do (`data/degradations.py`)
    degradation: Literal["blur", "bsr"] = "blur"
    blur_sigma: Annotated[float, Between(0.01, 100)] = 0.6  # deviation of the Gaussian blur, pixels
    strength: Probability = 1.0  # strength of BSR, 0 to 1
    # probability that a small image is degraded. The paper seems to degrade all, and a network that
    # has seen nothing else oversharpens what is sharp; Ho et al. (arXiv 2106.15282) blur half
    degradation_probability: Probability = 1.0
    loss: LossConfig = field(default_factory=LossConfig)

    @property
    def times(self) -> int:
        """`factor`; `ValueError` where it is not known."""
        if self.factor is None:
            raise ValueError("it is not known how much this upsampler enlarges; say network.factor")
        return self.factor

    def process(self) -> DiffusionConfig:
        return DiffusionConfig(
            prediction_type=self.prediction_type, beta_schedule=self.beta_schedule
        )


@dataclass(frozen=True)
class SecondUpsamplerSettings(UpsamplerSettings):
    """Those of the second upsampler, which differs as table 3 says."""

    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES_1024

    beta_schedule: BetaSchedule = "linear"  # schedule of the noise
    degradation: Literal["blur", "bsr"] = "bsr"  # damage to the small image (section 2.1)


class UpsamplerStage:
    """Network and process of one upsampler.

    Args:
        last: the network of the last sampling step, where it is another one: published models have
            such a `super_res_last`, trained to end in few steps.
        component: which upsampler of the model folder it is, `FIRST` or `SECOND`.
    """

    def __init__(
        self,
        network: UNet,
        process: DiffusionConfig,
        settings: UpsamplerSettings,
        last: UNet | None = None,
        component: str = FIRST,
    ) -> None:
        self.network: UNet = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.last: UNet | None = last and last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.settings = settings
        self.process = Diffusion(process, settings.loss)
        self.component = component

    @classmethod
    def build(cls, settings: UpsamplerSettings, size: int, component: str = FIRST) -> Self:
        """A fresh upsampler to images of `size` pixels a side."""
        config = unet_config(settings, size)
        multiple = settings.times * settings.crop * config.downsampling
        if size % settings.times or (size // settings.crop) % config.downsampling:
            raise ValueError(
                f"data.size {size} does not fit: crops of 1/{settings.crop} of it must divide by "
                f"{config.downsampling}; take a multiple of {multiple}"
            )
        return cls(UNet(config), settings.process(), settings, component=component)

    @classmethod
    def load(cls, folder: ModelFolder, component: str, dtype: torch.dtype | None = None) -> Self:
        """Read an upsampler and its scheduler of a model folder.

        Beside `super_res_first`, `super_res_last` is read where its weights are others.
        """
        process = load_scheduler(folder, SCHEDULERS[component])
        network = _load(folder, component, process, dtype)
        last = None
        if component == FIRST and folder.has(LAST) and not folder.same(FIRST, LAST):
            last = _load(folder, LAST, process, dtype)
            if last.config.sample_size != network.config.sample_size:
                raise ValueError(
                    f"{folder.path}: {FIRST} makes {network.config.sample_size} pixels and {LAST} "
                    f"{last.config.sample_size}: they are not of one model"
                )
        smaller = "decoder" if component == FIRST else FIRST
        small = folder.config(smaller).get("sample_size") if folder.has(smaller) else None
        settings = _settings_of(network.config, process, component, small)
        return cls(network, process, settings, last, component)

    def as_second(self, settings: UpsamplerSettings, size: int) -> "UpsamplerStage":
        """This upsampler's weights as the start of a second one, to images of `size` pixels.

        Raises:
            ValueError: the settings want another prediction type than the network has.
        """
        has, process = self.process.config.prediction_type, settings.process()
        if process.prediction_type != has:
            raise ValueError(
                f"the first upsampler predicts {has!r}; set network.prediction_type to that"
            )
        config = replace(self.network.config, sample_size=size)
        network = UNet(config)
        network.load_state_dict(self.network.state_dict())
        return UpsamplerStage(network, process, settings, component=SECOND)

    @property
    def networks(self) -> list[UNet]:
        return [self.network] if self.last is None else [self.network, self.last]

    @property
    def size(self) -> int:
        """Pixels of a side of the large image."""
        return self.network.config.sample_size

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The process's loss on crops, conditioned on the corrupted small image.

        Where the batch has `small` (N, 3, h, w) uint8, its images are crops already and these are
        theirs, degraded; else the small images are made here, blurred, and both are cropped.
        """
        images = batch["images"]
        side = images.shape[-1]
        with full_precision(images.device):
            if "small" in batch:
                small = to_signed(batch["small"])
                x0, condition = images, upsample_bicubic(small, (side, side))
            else:
                small = F.interpolate(images, size=side // self.settings.times, mode="area")
                upsampled = upsample_bicubic(self._blurred(small, generator), (side, side))
                pair = torch.cat([images, upsampled], dim=1)  # (N, 6, H, W): cropped alike
                crop, factor = side // self.settings.crop, self.settings.times
                crops = random_crops(pair, crop, generator, factor)
                x0, condition = crops.chunk(2, dim=1)
        x_t, t, noise = self.process.draw(x0, generator)
        output = self.network(_channels_last(upsampler_input(x_t, condition)), t)
        return self.process.loss(output, x0, noise, t)

    @torch.no_grad()
    def sample(
        self,
        small: Tensor,
        sampling: Sampling,
        noise: Noise,
        callback: Callback | None = None,
        size: tuple[int, int] | None = None,
        tile: int | None = None,
        known: Known | None = None,
    ) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] from small ones (N, 3, h, w).

        Args:
            size: H and W, multiples of the network's downsampling; its own size if left out.
            tile: side of the tiles that each step is computed in, see `acceleration/tiling.py`;
                chosen by `tile_side` if left out, which tiles only what would take over 2 GiB in
                one piece.
            known: what is known of the large images and kept; the small ones are to agree with it.
        """
        size = size or (self.size, self.size)
        with full_precision(small.device):
            upsampled = upsample_bicubic(small.float(), size)
        timesteps = self.process.plan(sampling).timesteps
        config = self.network.config
        tile = tile or tile_side(config, *size)
        # Tiles would each need features of their own, the memory that they are there to save.
        conditions = self.network.conditions(timesteps, reuse=1 if tile else sampling.reuse)

        def output(x: Tensor, t: Tensor) -> Tensor:
            step = shared_timestep(t)
            network, known = self.network, conditions
            if self.last is not None and step <= timesteps[-1]:
                network, known = self.last, self.last.conditions([step])

            def whole(x: Tensor) -> Tensor:
                return network.proceed(_channels_last(x), step, known)

            both = upsampler_input(x, upsampled)
            return tiled(whole, both, tile, config.downsampling) if tile else whole(both)

        denoiser = self.process.denoiser(output, sampling.threshold)
        like = torch.empty_like(upsampled)
        return self.process.sample(denoiser, like, sampling, noise, callback, known=known)

    def _blurred(self, small: Tensor, generator: torch.Generator) -> Tensor:
        """Each of the images with the settings' probability, the others as they are."""
        blurred = blur(small, self.settings.blur_sigma)
        if self.settings.degradation_probability == 1:
            return blurred
        drawn = uniform(len(small), 1, 1, 1, generator=generator)
        return torch.where(drawn < self.settings.degradation_probability, blurred, small)

    def suits(self) -> dict[str, Any]:
        """By diffusion, never guided."""
        return of_upsampler(SAMPLED_AS[self.component])

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """Originals, bicubic enlargements, and what the upsampler makes of the small images."""
        images = batch["images"][:4]
        side = images.shape[-1]
        if "small" in batch:
            small = to_signed(batch["small"][:4])
        else:
            small = F.interpolate(images, size=side // self.settings.times, mode="area")
        made = self.sample(small, Sampling(7, "ddim"), noise_from(generator), size=(side, side))
        with full_precision(images.device):
            bicubic = upsample_bicubic(small, (side, side))
        return torch.stack([images, bicubic, made])

    @together
    def save(self, folder: ModelFolder) -> None:
        """The upsampler's component and its scheduler; with the first one, super_res_last too.

        A single network does the last step too: super_res_last is then the same files again
        (hard links where the disk has them), which the published layout needs to be complete.
        """
        _save(folder, self.component, self.network)
        if self.last is not None:
            _save(folder, LAST, self.last)
        elif self.component == FIRST:
            folder.duplicate(FIRST, LAST)
        save_scheduler(folder, SCHEDULERS[self.component], self.process.config)


def _settings_of(
    config: UNetConfig, process: DiffusionConfig, component: str, small: Any
) -> UpsamplerSettings:
    """What a folder says of an upsampler that it holds; `small`, the side of the images before.

    No folder notes how it was trained: there the defaults stand, for training it further.
    """
    kind = UpsamplerSettings if component == FIRST else SecondUpsamplerSettings
    sizes: dict[str, Any] = {
        "widths": config.block_out_channels,
        "layers": config.layers_per_block,
        "groups": config.norm_num_groups,
        "dropout": config.dropout,
    }
    factor, rest = divmod(config.sample_size, small) if isinstance(small, int) and small else (0, 0)
    return kind(
        factor=factor if rest == 0 and 2 <= factor <= 16 else None,
        **sizes,
        prediction_type=process.prediction_type,
        beta_schedule=process.beta_schedule,
        size=size_of(kind, sizes),
    )


def unet_config(settings: UpsamplerSettings, size: int) -> UNetConfig:
    """Of a network for images of `size` pixels a side."""
    return adm_config(
        size,
        settings.widths,
        settings.layers,
        in_channels=6,
        groups=settings.groups,
        dropout=settings.dropout,
    )


def _save(folder: ModelFolder, component: str, network: UNet) -> None:
    folder.save(
        component,
        ("diffusers", network.config.class_name),
        {"config.json": network.config.to_json()},
        network.state_dict(),
    )


def _load(
    folder: ModelFolder, component: str, process: DiffusionConfig, dtype: torch.dtype | None
) -> UNet:
    where = str(folder.path / component)
    config = UNetConfig.from_json(folder.config(component), where)
    check_channels(config, 6, process, where)
    return folder.load(component, UNet, config, dtype)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _spec(
    name: str, component: str, components: ComponentClasses, recipe: Recipe[UpsamplerSettings]
) -> StageSpec[UpsamplerSettings]:
    """The two upsamplers differ in their recipes and in where they are kept."""

    def build(settings: UpsamplerSettings, context: BuildContext) -> UpsamplerStage:
        return UpsamplerStage.build(settings, context.data.size, component)

    def warm_start(
        settings: UpsamplerSettings, context: BuildContext, origin: ModelFolder
    ) -> UpsamplerStage:
        if component == SECOND and not origin.has(SECOND):
            # Both enlarge, so the first one is a better start than noise.
            first = UpsamplerStage.load(origin, FIRST, torch.float32)
            stage = first.as_second(settings, context.data.size)
        else:
            stage = UpsamplerStage.load(origin, component, torch.float32)
            stage.settings, stage.last = settings.resized(stage.settings), None
            stage.process = Diffusion(stage.process.config, settings.loss)
        context.check_size(stage.size, origin)
        return stage

    def check_fit(folder: ModelFolder, origin: ModelFolder) -> None:
        _check_fit(folder, origin, component)

    first = (FIRST, SCHEDULERS[FIRST])
    return StageSpec(
        name, recipe, components, build, warm_start, first,
        source=_source, network=_network, probe=Probe(_probe, listens=False),
        check_fit=check_fit, sampled_as=SAMPLED_AS[component],
    )  # fmt: skip


def _check_fit(folder: ModelFolder, origin: ModelFolder, component: str) -> None:
    """Refuse to enlarge images of another size than those that the upsampler learned from."""
    smaller = "decoder" if component == FIRST else FIRST
    if not (folder.has(smaller) and origin.has(smaller)):
        return
    here, there = (model.config(smaller).get("sample_size") for model in (folder, origin))
    if here != there:
        large = origin.config(component).get("sample_size")
        name = "upsampler" if component == FIRST else "upsampler-1024"
        raise ValueError(
            f"the {name} of {origin.path} enlarges images from {shown(there)} to {shown(large)} "
            f"pixels a side, but the {smaller} of {folder.path} makes {shown(here)}: train one of "
            f"its own: unclip train {name}"
        )


def _network(settings: UpsamplerSettings, _: CLIPTextConfig, size: int) -> UNet:
    return UNet(unet_config(settings, size))


def _probe(
    network: UNet, settings: UpsamplerSettings, _: CLIPTextConfig, size: int, n: int
) -> Tensor:
    side = size // settings.crop
    predicted: Tensor = network(torch.empty(n, 6, side, side), torch.zeros(n))
    return predicted.sum()


def _source(recipe: Recipe[UpsamplerSettings]) -> Source | Stream:
    """The images, or with BSR their crops and degraded small images."""
    source, settings, data = open_data(recipe.data), recipe.network, recipe.data
    if settings.degradation == "blur":
        return source
    return DegradedSource(
        source,
        data.size // settings.crop,
        settings.times,
        data.world.seed,
        settings.strength,
        settings.degradation_probability,
    )


SPEC = _spec(
    "upsampler",
    FIRST,
    {FIRST: (UNCONDITIONAL,), LAST: (UNCONDITIONAL,), SCHEDULERS[FIRST]: SCHEDULER},
    Recipe(
        UpsamplerSettings(),
        Data(size=256),
        Training(batch_size=64, steps=100_000),
        Optimiser(learning_rate=1.2e-4, warmup=1000),  # paper, table 3
    ),
)
SECOND_SPEC = _spec(
    "upsampler-1024",
    SECOND,
    {SECOND: (UNCONDITIONAL,), SCHEDULERS[SECOND]: SCHEDULER},
    Recipe(
        SecondUpsamplerSettings(),
        Data(size=1024),
        Training(batch_size=32, steps=100_000),
        Optimiser(learning_rate=1e-4, warmup=1000),
    ),
)
