"""The forward process: how much noise each timestep holds, and which timesteps a sampler visits.

    q(x_t | x_0) = N(sqrt(ᾱ_t) x_0, (1 - ᾱ_t) I)                                  (DDPM, eq. 4)

Timesteps run from 0 (almost clean) to T - 1 (almost pure noise), as networks see them; ``-1``
stands for the data itself, where ᾱ = 1. Tables are computed and kept in float64 on the CPU.

DDPM: Ho et al., arXiv 2006.11239.  Improved DDPM: Nichol & Dhariwal, arXiv 2102.09672.

Shapes: N batch, T training timesteps, n sampling steps, ... the dimensions of one sample.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from unclip.config import Between, Checked, Positive

BetaSchedule = Literal["squaredcos_cap_v2", "linear"]
PredictionType = Literal["epsilon", "sample", "v_prediction"]


@dataclass(frozen=True)
class DiffusionConfig(Checked):
    """A diffusion process; its fields are the keys of diffusers' ``scheduler_config.json``.

    ``"v_prediction"`` and ``"linear"`` are additions: diffusers' UnCLIPScheduler rejects them.

    Args:
        num_train_timesteps: T, the number of noise levels in training.
        variance_type: reverse variance: ``"fixed_small_log"`` is β̃_t (DDPM, eq. 7);
            ``"learned_range"`` a learned point between β̃_t and β_t (Improved DDPM, eq. 15).
        clip_sample: clip each predicted x_0 to ±``clip_sample_range`` when sampling.
        clip_sample_range: largest absolute value of the data (images 1, Karlo's embeddings 5).
        prediction_type: what the network predicts: the noise, x_0 itself, or v (arXiv 2202.00512).
        beta_schedule: ``"squaredcos_cap_v2"`` (cosine) or ``"linear"``.

    Raises:
        ValueError: a value is not among those above.
    """

    num_train_timesteps: Annotated[int, Between(1, 100_000)] = 1000
    variance_type: Literal["fixed_small_log", "learned_range"] = "fixed_small_log"
    clip_sample: bool = True
    clip_sample_range: Positive = 1.0
    prediction_type: PredictionType = "epsilon"
    beta_schedule: BetaSchedule = "squaredcos_cap_v2"

    @property
    def trains_variance(self) -> bool:
        """Whether a network's variance half is trained. Beside x_0 it is not, but a constant: close
        to the data, small errors in x_0 are many standard deviations of the posterior, and the
        bound's gradient disturbs all else or teaches nothing (docs/experiments.md).
        """
        return self.variance_type == "learned_range" and self.prediction_type != "sample"


@dataclass(frozen=True, eq=False)
class Schedule:
    """Noise levels of a discrete diffusion process.

    Args:
        betas: (T,) variance added at each timestep, in (0, 1).
    """

    betas: Tensor  # (T,)
    alphas_cumprod: Tensor = field(init=False)  # (T,) ᾱ_t = Π_{s<=t} (1 - β_s)

    def __post_init__(self) -> None:
        betas = self.betas.detach().to("cpu", torch.float64)
        if betas.ndim != 1 or not len(betas) or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError("betas must be a non-empty 1-D tensor of values between 0 and 1.")
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "alphas_cumprod", torch.cumprod(1 - betas, dim=0))

    @classmethod
    def cosine(cls, timesteps: int = 1000, max_beta: float = 0.999) -> "Schedule":
        """ᾱ(u) = cos²(π/2 (u + 0.008) / 1.008), betas capped (Improved DDPM, eq. 17)."""
        u = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        alpha_bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        return cls((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta))

    @classmethod
    def linear(cls, timesteps: int = 1000) -> "Schedule":
        """β from 1e-4 to 0.02 (DDPM, section 4), scaled by 1000 / T so that ᾱ ends alike for any T.

        Raises:
            ValueError: T is so small (20 or fewer) that a beta reaches 1.
        """
        if timesteps <= 20:
            raise ValueError(
                f"A linear schedule of {timesteps} timesteps would reach beta 1; "
                "take 21 or more, or the cosine schedule."
            )
        scale = 1000 / timesteps
        return cls(torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64))

    @classmethod
    def from_config(cls, config: DiffusionConfig) -> "Schedule":
        """The schedule that a configuration names."""
        make = cls.linear if config.beta_schedule == "linear" else cls.cosine
        return make(config.num_train_timesteps)

    def __len__(self) -> int:
        return len(self.betas)

    def alpha_bar(self, t: Tensor | int) -> Tensor:
        """ᾱ_t in float64 on the CPU, in the shape of ``t``; 1 at ``t = -1``, the data itself."""
        table = torch.cat([self.alphas_cumprod, torch.ones(1, dtype=torch.float64)])
        return table[torch.as_tensor(t).cpu()]

    def snr(self, t: Tensor | int) -> Tensor:
        """Signal-to-noise ratio ᾱ_t / (1 - ᾱ_t), float64 on the CPU; infinite at ``t = -1``."""
        alpha_bar = self.alpha_bar(t)
        return alpha_bar / (1 - alpha_bar)

    def gather(self, table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """Row ``t`` of a (T,) table for each sample of ``like``, shaped to broadcast over it.

        The table is cast (to float32 at least) before it moves, for devices without float64. From
        ``t`` on the CPU, as samplers give it, only the rows move, and no GPU is waited for.
        """
        dtype = torch.promote_types(like.dtype, torch.float32)
        if t.device != table.device:
            table = table.to(dtype).to(t.device)
        rows = table[t].to(dtype).reshape(-1, *[1] * (like.ndim - 1))  # (N or 1, 1, ...)
        return rows.to(like.device, non_blocking=like.is_cuda)

    def alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise scales, sqrt(ᾱ_t) and sqrt(1 - ᾱ_t), shaped to broadcast over ``like``.

        Args:
            t: (N,) or () timesteps.
            like: (N, ...) gives shape, device and dtype.
        """
        alpha = self.gather(self.alphas_cumprod.sqrt(), t, like)
        sigma = self.gather((1 - self.alphas_cumprod).sqrt(), t, like)
        return alpha, sigma

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Noised data x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε, in float32 at least (DDPM, eq. 4)."""
        alpha, sigma = self.alpha_sigma(t, x0)
        return alpha * x0 + sigma * noise


def _check_steps(timesteps: int, n: int, most: int) -> None:
    if not 1 <= n <= most:
        raise ValueError(
            f"{n} sampling steps were asked for; choose between 1 and {most} "
            f"for a process of {timesteps} timesteps."
        )


def spacing_unclip(timesteps: int, n: int) -> Tensor:
    """Karlo's timesteps, round(i (T - 1) / (n - 1)), descending from T - 1 to 0; (n,) long.

    One step starts from pure noise, [T - 1] (the formula divides by zero there). For n > 1 these
    are also what diffusers' DDPM and DDIM schedulers call "linspace".
    """
    _check_steps(timesteps, n, timesteps)
    if n == 1:
        return torch.tensor([timesteps - 1])
    steps = torch.arange(n, dtype=torch.float64) * ((timesteps - 1) / (n - 1))
    return steps.round().long().flip(0)


def spacing_leading(timesteps: int, n: int) -> Tensor:
    """i (T // n), descending to 0; (n,) long. Starts below T - 1: the noisiest part is skipped."""
    _check_steps(timesteps, n, timesteps)
    return (torch.arange(n) * (timesteps // n)).flip(0)


def spacing_trailing(timesteps: int, n: int) -> Tensor:
    """round(T - i T / n) - 1, descending from T - 1; (n,) long (arXiv 2305.08891, table 2)."""
    _check_steps(timesteps, n, timesteps)
    steps = timesteps - torch.arange(n, dtype=torch.float64) * (timesteps / n)
    return steps.round().long() - 1


def spacing_linspace(timesteps: int, n: int) -> Tensor:
    """n + 1 even points from T - 1 to 0 without the 0, as diffusers' DPM-Solver++; (n,) long.

    The last step then covers as much time as the others, where ``spacing_unclip`` ends with the
    tiny one from t = 0.
    """
    _check_steps(timesteps, n, max(timesteps - 1, 1))
    if timesteps == 1:
        return torch.tensor([0])
    steps = torch.arange(n + 1, dtype=torch.float64) * ((timesteps - 1) / n)
    return steps.round().long().flip(0)[:-1]


SPACINGS: dict[str, Callable[[int, int], Tensor]] = {
    "unclip": spacing_unclip,
    "leading": spacing_leading,
    "trailing": spacing_trailing,
    "linspace": spacing_linspace,
}
