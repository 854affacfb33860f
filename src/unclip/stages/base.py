"""What every stage is: trainable networks joined to their process, with `loss` and `sample`."""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unclip.batch import Batch
from unclip.checks import shown
from unclip.config import (
    Checked,
    Probability,
    Resamples,
    Reuse,
    Steps,
    from_mapping,
    one_of,
)
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.inpainting import Known, inpaint
from unclip.diffusion.prediction import Denoiser, Noise, shared_timestep
from unclip.diffusion.registry import SAMPLERS, spacing_named
from unclip.diffusion.samplers import Callback, Stop
from unclip.diffusion.schedules import DiffusionConfig, Schedule
from unclip.networks.unet_config import UNetConfig
from unclip.storage.folder import ModelFolder

SCHEDULER = "UnCLIPScheduler"  # the layout's class


class Replicas(Protocol):
    """What a stage may know of the processes that share a batch with it."""

    @property
    def rank(self) -> int:
        """Which of them this one is, from 0."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Rows (N, …) of this process → those of all (M, …), by rank, with gradients to each.

        All processes call it together.
        """
        ...


class Stage(Protocol):
    """One thing that the paper trains.

    `network` holds what is trained and nothing else; frozen parts (CLIP) are kept beside it. The
    training loop asks for `loss`, now and then for `preview`, and calls `save` with the weights to
    publish. `sample` differs from stage to stage: what goes in is what the stage is conditioned on.
    """

    @property
    def network(self) -> nn.Module: ...

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars; "loss" is minimised, the others are logged. All randomness is `generator`'s."""
        ...

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """Rows of images (R, C, 3, H, W) in [-1, 1] that show how far training is, if any."""
        ...

    def save(self, folder: ModelFolder) -> None:
        """Write the components that `network` holds into a model folder."""
        ...


@dataclass(frozen=True)
class Sampling(Checked):
    """How a stage is sampled.

    Args:
        steps: number of network evaluations (of both guidance branches together, where both are).
        sampler: a row of `SAMPLERS`.
        guidance: classifier-free guidance.
        eta: the noise that DDIM and DPM-Solver++ add, from 0 (none) to 1; others ignore it.
        reuse: k: a U-Net computes its deep levels at every k-th step and reuses what they gave in
            between (DeepCache, arXiv 2312.00858), an approximation; 1 computes all. Priors have
            none and ignore it.
        resamples: of inpainting, see `diffusion/inpainting.py`; each costs all the steps.
    """

    steps: Steps = 25
    sampler: str = "ddpm"
    guidance: Guidance = field(default_factory=Guidance)
    eta: Probability = 0.0
    reuse: Reuse = 1
    resamples: Resamples = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.sampler, "sampler", SAMPLERS)


class Process:
    """A diffusion process: its configuration and the schedule that it names."""

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self.schedule = Schedule.from_config(config)

    def draw(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Training's x_t (N, …), t (N,) and noise (N, …) for x0 (N, …)."""
        device = x0.device
        t = torch.randint(len(self.schedule), (len(x0),), generator=generator, device=device)
        noise = torch.randn(x0.shape, generator=generator, device=device)
        return self.schedule.q_sample(x0, t, noise), t, noise

    def timesteps(self, sampling: Sampling) -> Tensor:
        """The timesteps (steps,) that are visited, descending."""
        return spacing_named(SAMPLERS[sampling.sampler].spacing)(self.schedule, sampling.steps)

    def guided(self, sampling: Sampling) -> frozenset[float]:
        """The timesteps among them that need both branches: none where one can answer for both."""
        return frozenset() if sampling.guidance.distilled else self.active(sampling)

    def active(self, sampling: Sampling) -> frozenset[float]:
        """The timesteps among them at which guidance is active."""
        timesteps = self.timesteps(sampling)
        sigmas = self.schedule.snr(timesteps).rsqrt().tolist()
        pairs = zip(timesteps.tolist(), sigmas, strict=True)
        return frozenset(t for t, sigma in pairs if sampling.guidance.active(sigma))

    def sample(
        self,
        denoiser: Denoiser,
        like: Tensor,
        sampling: Sampling,
        noise: Noise,
        callback: Callback | None = None,
        start: Tensor | None = None,
        known: Known | None = None,
    ) -> Tensor:
        """Run the sampler from `start` (N, …), or from fresh noise, shaped as `like` (N, …).

        What is `known` of the result is kept, and the rest is painted. Where the callback stops the
        sampler, this is the data as far as it is known then.
        """
        timesteps = self.timesteps(sampling)
        sampler = SAMPLERS[sampling.sampler].sampler(sampling.eta)
        x = noise(like) if start is None else start.to(like.device)
        try:
            if known is None:
                return sampler(denoiser, x, self.schedule, timesteps, noise, callback=callback)
            return inpaint(
                sampler, denoiser, x, known, self.schedule, timesteps, noise,
                resamples=sampling.resamples, callback=callback,
            )  # fmt: skip
        except Stop as stop:
            return stop.x0


def scheduler_json(config: DiffusionConfig) -> dict[str, Any]:
    """The scheduler_config.json of diffusers' UnCLIPScheduler for this process."""
    return {"_class_name": SCHEDULER, **asdict(config)}


def scheduler_from_json(folder: ModelFolder, component: str) -> DiffusionConfig:
    """Read a scheduler component; unknown keys are errors."""
    written = folder.config(component)
    name = written.get("_class_name", SCHEDULER)
    if name != SCHEDULER:
        raise ValueError(
            f"{folder.path / component} is a {shown(name)}; only {SCHEDULER}'s process is known"
        )
    mapping = {k: v for k, v in written.items() if not k.startswith("_")}
    if mapping.get("variance_type") == "fixed_small":  # its logarithm is taken in any case
        mapping["variance_type"] = "fixed_small_log"
    return from_mapping(DiffusionConfig, mapping, str(folder.path / component))


def check_channels(config: UNetConfig, inputs: int, process: DiffusionConfig, where: str) -> None:
    """Refuse a U-Net for RGB images whose channels do not fit its use or its process."""
    outputs = 6 if process.variance_type == "learned_range" else 3
    if (config.in_channels, config.out_channels) != (inputs, outputs):
        raise ValueError(
            f"{where} has {config.in_channels} channels in and {config.out_channels} out; "
            f"its use here and variance_type {process.variance_type!r} need {inputs} and {outputs}"
        )


def guide(
    network: Callable[[Tensor, float, bool], Tensor],
    guidance: Guidance,
    guided: Collection[float],
    channels: int,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Classifier-free guidance around a network that can answer both branches in one batch.

    Args:
        network: (x, timestep, both) → raw output; with `both`, x is [x, x] and the output holds
            the conditional answers before the unconditional ones.
        guided: the timesteps at which both are needed, see `Process.guided`.
        channels: C of the data, without learned variances.
    """

    def output(x: Tensor, t: Tensor) -> Tensor:
        step = shared_timestep(t)
        if step not in guided:
            return network(x, step, False)
        cond, uncond = network(torch.cat([x, x]), step, True).chunk(2)
        return guidance(cond, uncond, channels)

    return output
