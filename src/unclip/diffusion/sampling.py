"""What is chosen about sampling, and the plan that a process makes of it."""

from bisect import bisect_right
from dataclasses import dataclass, field

from unclip.config import (
    Checked,
    Nucleus,
    Percentile,
    Probability,
    Resamples,
    Reuse,
    Steps,
    Temperature,
    one_of,
)
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.registry import SAMPLERS, SPACINGS


@dataclass(frozen=True)
class Sampling(Checked):
    """How a stage is sampled.

    Args:
        steps: of the sampler; each evaluates the network as often as the sampler's row says, once
            for most (both guidance branches together, where both are).
        sampler: a row of `SAMPLERS`.
        guidance: classifier-free guidance.
        eta: the noise that a sampler adds which can be told how much, from 0 (none) to 1.
        reuse: k: a U-Net computes its deep levels at every k-th step and reuses what they gave in
            between (DeepCache, arXiv 2312.00858), an approximation; 1 computes all. Priors have
            none and ignore it.
        resamples: of inpainting, see `diffusion/inpainting.py`; each costs all the steps.
        spacing: of the timesteps, a row of `SPACINGS`; None is the one that suits the sampler.
        threshold: percentile of dynamic thresholding, see `prediction.dynamic_threshold`; None
            clips x_0 plainly, if the process says so.
        temperature, top_p, dot_quantile: of priors that draw codes, see
            `stages/autoregressive_prior.py`.
    """

    steps: Steps = 25
    sampler: str = "ddpm"
    guidance: Guidance = field(default_factory=Guidance)
    eta: Probability = 0.0
    reuse: Reuse = 1
    resamples: Resamples = 1
    spacing: str | None = None
    threshold: Percentile | None = None
    temperature: Temperature = 1.0
    top_p: Nucleus = 1.0
    dot_quantile: Probability = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.sampler, "sampler", SAMPLERS)
        if self.spacing is not None:
            one_of(self.spacing, "spacing", SPACINGS)


@dataclass(frozen=True)
class Plan:
    """The timesteps that a sampling visits, and at which of them guidance is active.

    A sampler may evaluate at others too. Such a t belongs to the step within which it lies: it is
    guided where the planned timestep that the step starts from is, the last one at or above t.
    """

    timesteps: tuple[float, ...]  # descending
    active: frozenset[float]  # among them

    def guided(self, t: float) -> bool:
        """Whether guidance is active at t, planned or not."""
        return t in self.active or self._start(t) in self.active

    def _start(self, t: float) -> float:
        """The planned timestep from which the step that t lies in starts; above all, the first."""
        return self.timesteps[max(bisect_right(self.timesteps, -t, key=lambda s: -s), 1) - 1]
