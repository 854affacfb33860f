"""The forward process: how much noise each timestep holds, and which timesteps a sampler visits.

    q(x_t | x_0) = N(sqrt(ᾱ_t) x_0, (1 - ᾱ_t) I)                                  (DDPM, eq. 4)

Timesteps run from 0 (almost clean) to T - 1 (almost pure noise), as networks see them; ``-1``
stands for the data itself, where ᾱ = 1. Whole ones have an entry in a table. Between them, where t
is a float, log(ᾱ / (1 - ᾱ)) is linear in t, so that the noise level σ = sqrt((1 - ᾱ) / ᾱ), noise
over signal, is geometric; between -1 and 0, where it begins at none, σ itself is linear. Tables are
computed and kept in float64 on the CPU.

DDPM: Ho et al., arXiv 2006.11239.  Improved DDPM: Nichol & Dhariwal, arXiv 2102.09672.

Shapes: N batch, T training timesteps, n sampling steps, ... the dimensions of one sample.
"""

import math
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

    def alpha_bar(self, t: Tensor | float) -> Tensor:
        """ᾱ_t in float64 on the CPU, in the shape of ``t``; 1 at ``t = -1``, the data itself.

        Args:
            t: timesteps in [-1, T - 1], whole or between them.

        Raises:
            ValueError: a float outside of that.
        """
        t = torch.as_tensor(t).cpu()
        table = torch.cat([self.alphas_cumprod, torch.ones(1, dtype=torch.float64)])
        if not t.is_floating_point():
            return table[t]
        if not bool(((t >= -1) & (t <= len(self) - 1)).all()):
            raise ValueError(f"Timesteps must lie between -1 and {len(self) - 1}.")
        t = t.double()
        below = t.floor().long()
        above, fraction = (below + 1).clamp(max=len(self) - 1), t - below
        log_snr = torch.logit(table)
        between = torch.sigmoid(torch.lerp(log_snr[below], log_snr[above], fraction))
        to_data = 1 / (1 + (fraction * self.noise_level(0)) ** 2)
        between = torch.where(below < 0, to_data, between)
        return torch.where(fraction == 0, table[below], between)

    def snr(self, t: Tensor | float) -> Tensor:
        """Signal-to-noise ratio ᾱ_t / (1 - ᾱ_t), float64 on the CPU; infinite at ``t = -1``."""
        alpha_bar = self.alpha_bar(t)
        return alpha_bar / (1 - alpha_bar)

    def noise_level(self, t: Tensor | float) -> Tensor:
        """σ = sqrt((1 - ᾱ_t) / ᾱ_t), float64 on the CPU; 0 at ``t = -1``."""
        return self.snr(t).rsqrt()

    def timestep(self, noise_level: Tensor | float) -> Tensor:
        """The float t at which σ is ``noise_level``, the inverse: float64 on the CPU, in its shape.

        Levels above that of T - 1 give T - 1.
        """
        level = torch.as_tensor(noise_level, dtype=torch.float64).cpu()
        known = self.noise_level(torch.arange(len(self)))  # ascending
        above = torch.searchsorted(known, level).clamp(1, max(len(self) - 1, 1))
        if len(self) == 1:
            return (level / known[0]).clamp(max=1) - 1
        low, high = known.log()[above - 1], known.log()[above]
        between = (above - 1 + (level.log() - low) / (high - low)).clamp(max=len(self) - 1)
        return torch.where(level < known[0], level / known[0] - 1, between)

    def gather(self, table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """Row ``t``, whole, of a (T,) table for each sample of ``like``, to broadcast over it.

        The table is cast (to float32 at least) before it moves, for devices without float64. From
        ``t`` on the CPU, as samplers give it, only the rows move, and no GPU is waited for.
        """
        if t.device != table.device:
            table = table.to(torch.promote_types(like.dtype, torch.float32)).to(t.device)
        return _broadcast(table[t], like)

    def alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise scales, sqrt(ᾱ_t) and sqrt(1 - ᾱ_t), shaped to broadcast over ``like``.

        Args:
            t: (N,) or () timesteps, whole ones from -1, the data; floats are interpolated on the
                CPU, so that a GPU that has them is waited for.
            like: (N, ...) gives shape, device and dtype.
        """
        if t.is_floating_point():
            alpha_bar = self.alpha_bar(t)
            return _broadcast(alpha_bar.sqrt(), like), _broadcast((1 - alpha_bar).sqrt(), like)
        alpha_bars = torch.cat([self.alphas_cumprod, torch.ones(1, dtype=torch.float64)])
        alpha = self.gather(alpha_bars.sqrt(), t, like)
        sigma = self.gather((1 - alpha_bars).sqrt(), t, like)
        return alpha, sigma

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Noised data x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε, in float32 at least (DDPM, eq. 4)."""
        alpha, sigma = self.alpha_sigma(t, x0)
        return alpha * x0 + sigma * noise


def _broadcast(rows: Tensor, like: Tensor) -> Tensor:
    """(N,) or () -> (N or 1, 1, ...) beside ``like`` (N, ...), float32 at least."""
    rows = rows.to(torch.promote_types(like.dtype, torch.float32))
    rows = rows.reshape(-1, *[1] * (like.ndim - 1))
    return rows.to(like.device, non_blocking=like.is_cuda)


def _check_steps(timesteps: int, n: int, most: int) -> None:
    if not 1 <= n <= most:
        raise ValueError(
            f"{n} sampling steps were asked for; choose between 1 and {most} "
            f"for a process of {timesteps} timesteps."
        )


def spacing_unclip(schedule: Schedule, n: int) -> Tensor:
    """Karlo's timesteps, round(i (T - 1) / (n - 1)), descending from T - 1 to 0; (n,) long.

    One step starts from pure noise, [T - 1] (the formula divides by zero there). For n > 1 these
    are also what diffusers' DDPM and DDIM schedulers call "linspace".
    """
    timesteps = len(schedule)
    _check_steps(timesteps, n, timesteps)
    if n == 1:
        return torch.tensor([timesteps - 1])
    steps = torch.arange(n, dtype=torch.float64) * ((timesteps - 1) / (n - 1))
    return steps.round().long().flip(0)


def spacing_leading(schedule: Schedule, n: int) -> Tensor:
    """i (T // n), descending to 0; (n,) long. Starts below T - 1: the noisiest part is skipped."""
    timesteps = len(schedule)
    _check_steps(timesteps, n, timesteps)
    return (torch.arange(n) * (timesteps // n)).flip(0)


def spacing_trailing(schedule: Schedule, n: int) -> Tensor:
    """round(T - i T / n) - 1, descending from T - 1; (n,) long (arXiv 2305.08891, table 2)."""
    timesteps = len(schedule)
    _check_steps(timesteps, n, timesteps)
    steps = timesteps - torch.arange(n, dtype=torch.float64) * (timesteps / n)
    return steps.round().long() - 1


def spacing_linspace(schedule: Schedule, n: int) -> Tensor:
    """n + 1 even points from T - 1 to 0 without the 0, as diffusers' DPM-Solver++; (n,) long.

    The last step then covers as much time as the others, where ``spacing_unclip`` ends with the
    tiny one from t = 0.
    """
    timesteps = len(schedule)
    _check_steps(timesteps, n, max(timesteps - 1, 1))
    if timesteps == 1:
        return torch.tensor([0])
    steps = torch.arange(n + 1, dtype=torch.float64) * ((timesteps - 1) / n)
    return steps.round().long().flip(0)[:-1]


def spacing_karras(schedule: Schedule, n: int) -> Tensor:
    """σ^(1/7) even from 80, or T - 1's if that is less, to t = 0's; (n,) float64 timesteps.

    Karras et al., arXiv 2206.00364, eq. 5 with ρ = 7. At σ = 80 the data, of deviation 1 at most,
    are lost in the noise; a cosine schedule goes on to 20,000, where there is nothing to do.
    """
    timesteps = len(schedule)
    _check_steps(timesteps, n, timesteps)
    first = schedule.noise_level(timesteps - 1).clamp(max=80) ** (1 / 7)
    last = schedule.noise_level(0) ** (1 / 7)
    even = torch.arange(n, dtype=torch.float64) / max(n - 1, 1)
    return schedule.timestep((first + even * (last - first)) ** 7).clamp(min=0)
