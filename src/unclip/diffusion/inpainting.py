"""Inpainting: data of which a part is known is completed, with any denoiser and any sampler.

RePaint (Lugmayr et al., arXiv 2201.09865, algorithm 1): at every step the known part is the data
itself at that noise level, and what the denoiser makes of both is kept in the unknown part only.
The unknown part is drawn before it has seen what the step makes of the known one, so that both do
not quite agree; going back by some steps and down again, ``resamples`` times in all, lets them.

On Gaussian data the mean of the unknown part so approaches that of the conditional distribution,
with any sampler; the covariance does where the sampler keeps it. What few steps of DDPM with fixed
variances lose of it, they lose at each repetition (tests/diffusion/test_inpainting.py).

Shapes: N batch, ... the dimensions of one sample.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from unclip.diffusion.prediction import Denoiser, Noise, Prediction, at_least_float32
from unclip.diffusion.samplers import Callback, Sampler, after_step
from unclip.diffusion.schedules import Schedule

JUMP = 5
"""Steps that are gone back at once, of 25 or so; RePaint: 10 of 250."""


@dataclass(frozen=True)
class Known:
    """What is known of the data.

    Attributes:
        x0: (N or 1, ...) the data; what it holds where it is unknown is not read.
        unknown: (N or 1, ...) boolean, as ``x0``: True where there is something to paint.
    """

    x0: Tensor
    unknown: Tensor


def imposed(denoiser: Denoiser, known: Known, schedule: Schedule, noise: Noise) -> Denoiser:
    """The denoiser, which sees and says what is known.

    In the known part it is given α x_0 + σ z instead of x_t, with fresh z at every call (RePaint,
    eq. 8a), and predicts x_0 itself. A sampler that ends in the data so ends in the known data.
    """

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        x0, z = known.x0.to(x).expand_as(x), noise(x)
        seen = torch.where(known.unknown, x, schedule.q_sample(x0, t, z))
        made = denoiser(seen, t)
        return Prediction(
            torch.where(known.unknown, made.x0, x0),
            torch.where(known.unknown, made.eps, z),
            made.variance,
        )

    return denoise


@torch.no_grad()
def inpaint(
    sampler: Sampler,
    denoiser: Denoiser,
    x: Tensor,
    known: Known,
    schedule: Schedule,
    timesteps: Tensor,
    noise: Noise,
    *,
    resamples: int = 1,
    jump: int = JUMP,
    callback: Callback | None = None,
) -> Tensor:
    """Samples (N, ...) that are ``known.x0`` exactly where it is known.

    The timesteps are gone through in runs of ``jump``, each of them ``resamples`` times: from its
    end, noise leads back to its start (RePaint, eq. 1). With ``resamples`` 1 and nothing known this
    is the sampler.

    Args:
        x: (N, ...) noise at ``timesteps[0]``; the other arguments are those of a sampler.
        resamples: RePaint's r; the denoiser is called so many times as often.

    Raises:
        ValueError: resamples or jump below 1; those of the sampler.
    """
    if resamples < 1 or jump < 1:
        raise ValueError(
            f"{resamples} resamples with jumps of {jump} steps were asked for; take at least 1"
        )
    x, count = at_least_float32(x), itertools.count()
    if not bool(known.unknown.all()):
        denoiser = imposed(denoiser, known, schedule, noise)

    def hook(_: int, t: float, x: Tensor, prediction: Prediction) -> Tensor:
        return after_step(callback, next(count), t, x, prediction)

    runs = torch.split(timesteps, jump if resamples > 1 else len(timesteps))
    ends = [*(run[0].item() for run in runs[1:]), -1]
    for run, end in zip(runs, ends, strict=True):
        kept = float(schedule.alpha_bar(run[0]) / schedule.alpha_bar(end))  # of the variance
        for again in range(resamples):
            if again:
                x = kept**0.5 * x + (1 - kept) ** 0.5 * noise(x)
            x = sampler(denoiser, x, schedule, run, noise, until=end, callback=hook)
    return x
