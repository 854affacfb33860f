"""Samplers: noise to data, each one short function over a ``Denoiser``, and one row in
``registry.SAMPLERS``.

All take a descending (n,) tensor of timesteps, whole or not (``registry.SPACINGS``), and step from
each to the next, the last one to the data itself (ᾱ = 1), where no noise is added, or to the
timestep ``until``. They may ask the denoiser at any t. Coefficients are computed between the
timesteps visited, in float64; the state is float32 at least.

Shapes: N batch, n sampling steps, ... the dimensions of one sample.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from unclip.diffusion.prediction import Denoiser, Noise, Prediction, at_least_float32
from unclip.diffusion.schedules import Schedule

Callback = Callable[[int, float, Tensor, Prediction], Tensor | None]
"""After step i from timestep t: (i, t, the new x (N, ...), the prediction made at t) to the x that
is gone on with, or None for the same. It may raise ``Stop``."""


class Stop(Exception):  # noqa: N818  (no error)
    """Raised by a callback, through the sampler: it ends here.

    Args:
        x: (N, ...) the state then.
        x0: (N, ...) the data as far as they are known.
    """

    def __init__(self, x: Tensor, x0: Tensor) -> None:
        super().__init__("sampling was stopped")
        self.x, self.x0 = x, x0


class Sampler(Protocol):
    """What ``ddpm``, ``ddim`` (also as ``partial(ddim, eta=...)``) and the others look like."""

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        schedule: Schedule,
        timesteps: Tensor,
        noise: Noise | None = None,
        *,
        until: float = -1,
        callback: Callback | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Step:
    """From timestep t, ᾱ_t, to the next one visited, t_prev, ᾱ_prev (-1 and 1 at the end)."""

    i: int
    t: float
    t_prev: float
    alpha_bar: float
    alpha_bar_prev: float
    last: bool

    @property
    def beta(self) -> float:
        """β of the whole stride: 1 - ᾱ_t / ᾱ_prev."""
        return 1 - self.alpha_bar / self.alpha_bar_prev

    @property
    def posterior_variance(self) -> float:
        """β̃ of the whole stride (DDPM, eq. 7)."""
        return (1 - self.alpha_bar_prev) / (1 - self.alpha_bar) * self.beta

    def times(self, x: Tensor) -> Tensor:
        """t for each row of x, as denoisers take it."""
        return timesteps_of(x, self.t)


def timesteps_of(x: Tensor, t: float) -> Tensor:
    """t for each row of x (N, ...), as denoisers take it: (N,) long, or float64 where it is not
    whole; on the CPU: to read it waits for no GPU."""
    return torch.full((len(x),), t, dtype=torch.int64 if t == int(t) else torch.float64)


def steps_between(schedule: Schedule, timesteps: Tensor, until: float = -1) -> Iterator[Step]:
    """The steps from each timestep to the next, the last one to ``until``; -1 is the data, ᾱ = 1.

    Only a step to the data is the ``last`` one.
    """
    times: list[float] = timesteps.tolist()
    if not times or any(a <= b for a, b in pairwise(times)):
        raise ValueError("Sampling timesteps must be one or more, in strictly descending order.")
    if times[0] >= len(schedule) or times[-1] < 0:
        raise ValueError(f"Sampling timesteps must lie between 0 and {len(schedule) - 1}.")
    if not -1 <= until < times[-1]:
        raise ValueError(f"Sampling cannot end at {until}: its last timestep is {times[-1]}.")
    whole = all(t == int(t) for t in (*times, until))
    ends = torch.tensor([*times, until], dtype=torch.int64 if whole else torch.float64)
    alpha_bars = schedule.alpha_bar(ends).tolist()
    for i, (t, t_prev) in enumerate(pairwise([*times, until])):
        yield Step(i, t, t_prev, alpha_bars[i], alpha_bars[i + 1], last=t_prev < 0)


def after_step(
    callback: Callback | None, i: int, t: float, x: Tensor, prediction: Prediction
) -> Tensor:
    """x, or what the callback, if there is one, puts in its place."""
    changed = None if callback is None else callback(i, t, x, prediction)
    return x if changed is None else changed


def noise_from(generators: torch.Generator | Sequence[torch.Generator]) -> Noise:
    """Standard normal noise from one generator for the whole batch, or from one per sample.

    With one per sample, a seed gives the same image alone or in any batch. Values are drawn in
    float32 on the generator's device, so they do not depend on the precision or, with CPU
    generators, the device of the model.

    Raises:
        ValueError: (on use) there are not as many generators as samples.
    """

    def normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device)

    def noise(x: Tensor) -> Tensor:
        if isinstance(generators, torch.Generator):
            return normal(x.shape, generators).to(x, non_blocking=x.is_cuda)
        if len(generators) != len(x):
            raise ValueError(
                f"{len(generators)} generators were given for a batch of {len(x)}; give one per "
                "sample, or a single one that is not in a list."
            )
        rows = torch.stack([normal(x.shape[1:], g) for g in generators])  # (N, ...)
        return rows.to(x, non_blocking=x.is_cuda)

    return noise


def _required(noise: Noise | None, sampler: str) -> Noise:
    if noise is None:
        raise ValueError(f"{sampler} adds noise; pass noise=noise_from(generator).")
    return noise


def _drawn(noise: Noise | None, eta: float, sampler: str) -> Noise | None:
    """The noise that a sampler adds, if any."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; choose it between 0 (deterministic) and 1 (as DDPM).")
    return _required(noise, f"{sampler} with eta > 0") if eta > 0 else None


@torch.no_grad()
def ddpm(
    denoiser: Denoiser,
    x: Tensor,
    schedule: Schedule,
    timesteps: Tensor,
    noise: Noise | None = None,
    *,
    until: float = -1,
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al., arXiv 2006.11239, eq. 7; strided: arXiv 2102.09672, eq. 19).

    x_prev ~ N(μ̃(x_t, x_0), Σ), Σ = β̃, or exp(v log β + (1 - v) log β̃) where the denoiser learned
    its variance (arXiv 2102.09672, eq. 15). v is kept within [0, 1], where it is meant to be:
    beyond, a network that learned it badly adds noise without bound. Within, this is diffusers'
    UnCLIPScheduler.

    Args:
        x: (N, ...) noise at ``timesteps[0]``.

    Returns:
        (N, ...) samples.

    Raises:
        ValueError: timesteps out of range or order; no noise given.
    """
    noise = _required(noise, "ddpm")
    x = at_least_float32(x)
    for s in steps_between(schedule, timesteps, until):
        prediction = denoiser(x, s.times(x))
        on_x0 = math.sqrt(s.alpha_bar_prev) * s.beta / (1 - s.alpha_bar)
        on_x = math.sqrt(1 - s.beta) * (1 - s.alpha_bar_prev) / (1 - s.alpha_bar)
        mean = on_x0 * prediction.x0 + on_x * x
        if s.last:
            x = mean
        elif prediction.variance is None:
            x = mean + math.sqrt(max(s.posterior_variance, 1e-20)) * noise(x)
        else:
            small, large = math.log(max(s.posterior_variance, 1e-20)), math.log(s.beta)
            log_variance = small + (large - small) * prediction.variance.clamp(0, 1)
            x = mean + torch.exp(0.5 * log_variance) * noise(x)
        x = after_step(callback, s.i, s.t, x, prediction)
    return x


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    x: Tensor,
    schedule: Schedule,
    timesteps: Tensor,
    noise: Noise | None = None,
    *,
    until: float = -1,
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (Song et al., arXiv 2010.02502, eq. 12 and 16).

    x_prev = sqrt(ᾱ_prev) x_0 + sqrt(1 - ᾱ_prev - σ²) ε + σ z,  σ = η sqrt(β̃).

    Args:
        x: (N, ...) noise at ``timesteps[0]``.
        noise: needed if eta > 0.
        eta: 0 is deterministic (an ODE solver of order 1), 1 equals ``ddpm`` with fixed variance.

    Returns:
        (N, ...) samples.

    Raises:
        ValueError: eta outside [0, 1]; timesteps out of range or order; noise missing.
    """
    draw = _drawn(noise, eta, "ddim")
    x = at_least_float32(x)
    for s in steps_between(schedule, timesteps, until):
        prediction = denoiser(x, s.times(x))
        variance = eta**2 * s.posterior_variance
        on_eps = math.sqrt(max(1 - s.alpha_bar_prev - variance, 0.0))
        x = math.sqrt(s.alpha_bar_prev) * prediction.x0 + on_eps * prediction.eps
        if draw is not None and not s.last:
            x = x + math.sqrt(variance) * draw(x)
        x = after_step(callback, s.i, s.t, x, prediction)
    return x


@torch.no_grad()
def dpm_solver_pp_2m(
    denoiser: Denoiser,
    x: Tensor,
    schedule: Schedule,
    timesteps: Tensor,
    noise: Noise | None = None,
    *,
    until: float = -1,
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M), of order 2 (Lu et al., arXiv 2211.01095, algorithm 2), and its SDE variant.

    With λ = log(α / σ), h = λ_prev - λ_t, r = h_before / h, it is ``ddim`` with the extrapolation
    D = x_0 + (x_0 - x_0,before) / (2 r) in place of x_0, and with ε = (x_t - α_t D) / σ_t:
    x_prev = α_prev D + sqrt(σ_prev² - η² β̃) ε + η sqrt(β̃) z. At η = 0 that is
    (σ_prev / σ_t) x_t - α_prev (e^{-h} - 1) D, at η = 1 SDE-DPM-Solver++(2M).
    The first step, and the last (to σ = 0, infinite h), are of order 1. ``spacing_linspace`` suits
    it: a visit to t = 0 (``spacing_unclip``) makes one step so long in λ that order 2 suffers.

    Args:
        x: (N, ...) noise at ``timesteps[0]``.
        noise: needed if eta > 0.
        eta: 0 is deterministic, 1 adds the noise that ``ddpm`` adds with fixed variance.

    Returns:
        (N, ...) samples.

    Raises:
        ValueError: eta outside [0, 1]; timesteps out of range or order; noise missing.
    """
    draw = _drawn(noise, eta, "dpm++")
    x = at_least_float32(x)
    x0_before: Tensor | None = None
    h_before = math.nan
    for s in steps_between(schedule, timesteps, until):
        prediction = denoiser(x, s.times(x))
        if s.last:
            x = prediction.x0
        else:
            h = _half_log_snr(s.alpha_bar_prev) - _half_log_snr(s.alpha_bar)
            d = prediction.x0
            if x0_before is not None:
                d = d + (d - x0_before) * (h / (2 * h_before))
            variance = eta**2 * s.posterior_variance
            on_x = math.sqrt((1 - s.alpha_bar_prev - variance) / (1 - s.alpha_bar))
            on_d = math.sqrt(s.alpha_bar_prev) - math.sqrt(s.alpha_bar) * on_x
            x = on_x * x + on_d * d
            if draw is not None:
                x = x + math.sqrt(variance) * draw(x)
            x0_before, h_before = prediction.x0, h
        x = after_step(callback, s.i, s.t, x, prediction)
    return x


@torch.no_grad()
def heun(
    denoiser: Denoiser,
    x: Tensor,
    schedule: Schedule,
    timesteps: Tensor,
    noise: Noise | None = None,
    *,
    until: float = -1,
    callback: Callback | None = None,
) -> Tensor:
    """EDM's deterministic sampler, of order 2 (Karras et al., arXiv 2206.00364, algorithm 1).

    With s = σ / α, the ODE of x / α is d(x / α) / ds = ε. Each step is ``ddim``'s, taken anew with
    the mean of the ε at both of its ends: two evaluations. The last, to s = 0, is ``ddim``'s. It is
    made for steps that are even in a power of s (``spacing_karras``): from the end of a cosine
    schedule, s = 20,000, those of other spacings are too long for it.

    Args:
        x: (N, ...) noise at ``timesteps[0]``.
        noise: not used.

    Returns:
        (N, ...) samples.

    Raises:
        ValueError: timesteps out of range or order.
    """
    x = at_least_float32(x)
    for s in steps_between(schedule, timesteps, until):
        prediction = denoiser(x, s.times(x))
        if s.last:
            x = prediction.x0
        else:
            alpha, sigma = math.sqrt(s.alpha_bar_prev), math.sqrt(1 - s.alpha_bar_prev)
            euler = alpha * prediction.x0 + sigma * prediction.eps
            corrected = denoiser(euler, timesteps_of(x, s.t_prev))
            on_eps = sigma - alpha * math.sqrt(1 / s.alpha_bar - 1)  # α_prev (s_prev - s)
            x = euler + on_eps * (corrected.eps - prediction.eps) / 2
        x = after_step(callback, s.i, s.t, x, prediction)
    return x


def _half_log_snr(alpha_bar: float) -> float:
    """λ = log(α / σ)."""
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))
