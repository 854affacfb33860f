"""Inversion: the noise x_T from which deterministic DDIM makes a given image.

DDIM with η = 0 is the step y = F(x) = sqrt(ᾱ_prev) x_0(x) + sqrt(1 - ᾱ_prev) ε(x), from x at t to y
at the timestep visited next. Run backwards, each step is an equation for x. Dhariwal & Nichol
(arXiv 2105.05233, appendix F) take ε(y) for ε(x), which is right for infinitely many steps; here
the equation is solved, so that the same few steps forwards lead back to the image.

Shapes: N batch, ... the dimensions of one sample, P their product.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from unclip.diffusion.prediction import Denoiser, Prediction, at_least_float32, shared_timestep
from unclip.diffusion.samplers import Callback, after_step, steps_between
from unclip.diffusion.schedules import Schedule

_HISTORY = 4  # evaluations that a new one is chosen from


def ending_in_data(denoiser: Denoiser, schedule: Schedule) -> Denoiser:
    """The denoiser, which at t = 0 takes x_t for the data itself: x_0 = x_t / α, ε = 0.

    No network is invertible there: what it does not think likely in an image, it removes, and no x
    leads to an image that has it. The noise at t = 0 is below the rounding to 8 bits (its deviation
    is 0.006 for cosine schedules of 1000 timesteps), so nothing is lost by leaving it.
    """

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        if shared_timestep(t) > 0:
            return denoiser(x, t)
        x = at_least_float32(x)
        alpha, _ = schedule.alpha_sigma(t, x)
        return Prediction(x / alpha, torch.zeros_like(x))

    return denoise


@torch.no_grad()
def invert(
    denoiser: Denoiser,
    x0: Tensor,
    schedule: Schedule,
    timesteps: Tensor,
    *,
    iterations: int = 12,
    tolerance: float = 1e-4,
    callback: Callback | None = None,
) -> Tensor:
    """The x_T that ``ddim`` (η = 0) over the same timesteps turns into ``x0``.

    Each step solves F(x) = y by the fixed point x ← x + c (y - F(x)), accelerated by Anderson's
    method (1965), from the x that would be right if x_0 and ε were the same at x as at y.
    Predictions that are clipped are no obstacle: F grows with x where x_0(x) does not.

    Args:
        denoiser: as for ``ddim``; see ``ending_in_data``.
        x0: (N, ...) data.
        timesteps: (n,) descending, those of the sampling.
        iterations: at most this many evaluations of the denoiser a step. With 1 no equation is
            solved: x_0 and ε at x are taken to be those at y, as in inversion without refinement.
        tolerance: enough where y - F(x) has this root mean square in every sample.

    Returns:
        (N, ...) in float32 at least; how nearly it leads back is for the caller to measure.

    Raises:
        ValueError: timesteps out of range or order; no iterations.
    """
    if iterations < 1:
        raise ValueError(f"{iterations} iterations a step were asked for; take at least 1")
    y = at_least_float32(x0)
    guess = Prediction(y, torch.zeros_like(y))
    for s in reversed(list(steps_between(schedule, timesteps))):
        alpha, sigma = math.sqrt(s.alpha_bar), math.sqrt(1 - s.alpha_bar)
        alpha_prev, sigma_prev = math.sqrt(s.alpha_bar_prev), math.sqrt(1 - s.alpha_bar_prev)
        x = alpha * guess.x0 + sigma * guess.eps  # as if x_0 and ε were those at y
        tried: list[Tensor] = []  # x, and what was missing there: (N, P) each
        missed: list[Tensor] = []
        best, least = x, torch.full((len(x),), math.inf, device=x.device)
        for _ in range(iterations):
            prediction = denoiser(x, s.times(x))
            missing = y - (alpha_prev * prediction.x0 + sigma_prev * prediction.eps)
            error = missing.flatten(1).square().mean(dim=1).sqrt()  # (N,)
            better = (error < least).reshape(-1, *[1] * (x.ndim - 1))
            pairs = ((prediction.x0, guess.x0), (prediction.eps, guess.eps))
            guess = Prediction(*(torch.where(better, new, old) for new, old in pairs))
            best, least = torch.where(better, x, best), torch.minimum(error, least)
            if bool((least <= tolerance).all()):
                break
            tried = [*tried, x.flatten(1)][-_HISTORY:]
            missed = [*missed, missing.flatten(1)][-_HISTORY:]
            x = _anderson(tried, missed).view_as(x)
        y = after_step(callback, s.i, s.t, best, guess)
    return y


def _anderson(tried: list[Tensor], missed: list[Tensor]) -> Tensor:
    """The next x (N, P) after those tried, from what each missed of y.

    Per sample: the combination of those tried, with weights that sum to 1, whose combined miss is
    the shortest; and a step along that miss, as long as the last two say (Barzilai & Borwein 1988).
    """
    x, miss = tried[-1], missed[-1]
    if len(tried) == 1:
        return x + miss  # where x_0 and ε do not change much, F grows as x does
    d_x = torch.stack([b - a for a, b in pairwise(tried)], dim=2)  # (N, P, m)
    d_miss = torch.stack([b - a for a, b in pairwise(missed)], dim=2)
    gram = d_miss.mT @ d_miss  # (N, m, m)
    ridge = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-30
    gram = gram + ridge[:, None, None] * torch.eye(gram.shape[1]).to(gram)
    weights = torch.linalg.solve(gram, d_miss.mT @ miss[..., None])  # (N, m, 1)
    x = x - (d_x @ weights).squeeze(2)
    miss = miss - (d_miss @ weights).squeeze(2)
    dots = (d_x[..., -1] * d_miss[..., -1]).sum(dim=1, keepdim=True)
    length = -dots / d_miss[..., -1].square().sum(dim=1, keepdim=True).clamp(min=1e-30)
    following: Tensor = x + length.clamp(1e-3, 4) * miss
    return following
