"""Training losses of diffusion models: their terms and weights; `process.Diffusion` joins them.

    L_simple = E || output - target ||²                        (DDPM, arXiv 2006.11239, eq. 14)
    L_hybrid = L_simple + 0.001 L_vlb                          (Improved DDPM, 2102.09672, eq. 16)
    L_vlb    = Σ_t L_t                                         (Improved DDPM, eq. 4 to 6)
    L_t      = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)),  L_0 = -log p(x_0 | x_t) at t = 0

All in float32 at least. The constant prior term, KL(q(x_T | x_0) || N(0, I)), is left out.

Shapes: N batch, C channels, T training timesteps, ... the remaining dimensions.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from unclip.config import Between, Checked, Positive
from unclip.diffusion.schedules import Schedule


@dataclass(frozen=True)
class LossConfig(Checked):
    """Weights of the training loss.

    Args:
        weighting: weights of timesteps: simple is uniform; min_snr and truncated_snr are those of
            ``snr_weights``.
        min_snr_gamma: γ, the largest weight on the x_0 error.
        vlb_weight: λ of the variational bound, which trains the learned variance.

    Raises:
        ValueError: unknown weighting, γ not positive, or negative vlb_weight.
    """

    weighting: Literal["simple", "min_snr", "truncated_snr"] = "simple"
    min_snr_gamma: Positive = 5.0
    vlb_weight: Annotated[float, Between(0, 1e6)] = 0.001


def snr_weights(snr: Tensor, prediction_type: str, gamma: float = 5.0, least: float = 0) -> Tensor:
    """Weight min(SNR, γ), not below ``least``, on the x_0 error, expressed on the network's output.

    Min-SNR is Hang et al., arXiv 2303.09556, section 3.4: ε divides by SNR, v by SNR + 1. With
    ``least`` 1, SNR is truncated from below as well (Salimans & Ho, arXiv 2202.00512, section 4):
    the noisiest steps, where the layout of an image is decided, then keep their full weight.

    Raises:
        ValueError: ``least`` with ε, whose noisiest steps would then outweigh all others: divided
            by an SNR of next to nothing.
    """
    if least and prediction_type == "epsilon":
        raise ValueError(
            "truncated_snr does not suit networks that predict epsilon: choose the weighting "
            "min_snr or simple, or a network that predicts sample or v_prediction"
        )
    weights = snr.clamp(least, gamma)
    if prediction_type == "epsilon":
        return weights / snr
    if prediction_type == "v_prediction":
        return weights / (snr + 1)
    assert prediction_type == "sample", prediction_type
    return weights


def normal_kl(mean1: Tensor, logvar1: Tensor, mean2: Tensor, logvar2: Tensor) -> Tensor:
    """KL(N(mean1, e^logvar1) || N(mean2, e^logvar2)), elementwise, in nats."""
    difference = logvar1 - logvar2
    return 0.5 * (difference.exp() - 1 - difference + (mean1 - mean2) ** 2 * (-logvar2).exp())


def discretised_gaussian_nll(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-log of a Gaussian's mass in x's bin, elementwise, in nats (DDPM, eq. 13).

    Args:
        x: images of 8 bits in [-1, 1]: 256 bins of width 2/255; the outer ones reach to infinity.
        mean, log_std: of the Gaussian.
    """
    log_ndtr = torch.special.log_ndtr
    inverse_std = (-log_std).exp()
    distance, half_width = (x - mean) * inverse_std, inverse_std / 255
    # By symmetry, take the left tail, where log Φ is exact; then log(Φ(a) - Φ(b)) with b < a.
    a, b = log_ndtr(half_width - distance.abs()), log_ndtr(-half_width - distance.abs())
    inner = a + torch.log(-torch.expm1(b - a))
    low, high = log_ndtr(distance + half_width), log_ndtr(half_width - distance)
    return -torch.where(x < -0.999, low, torch.where(x > 0.999, high, inner))


def vlb_terms(
    x0_pred: Tensor, fraction: Tensor, x0: Tensor, t: Tensor, schedule: Schedule
) -> Tensor:
    """L_t of the variational bound for each sample, (N,) in bits per dimension.

    Args:
        x0_pred: (N, C, ...) predicted x_0, unclipped.
        fraction: (N, C, ...) learned variance, between log β̃ (0) and log β (1) (eq. 15).
        x0: (N, C, ...) images in [-1, 1].
        t: (N,) timesteps.
    """
    alpha_bar, beta = schedule.alphas_cumprod, schedule.betas
    before = alpha_bar / (1 - beta)  # ᾱ_{t-1}, 1 at t = 0
    posterior = (1 - before) / (1 - alpha_bar) * beta  # β̃_t, DDPM eq. 7
    posterior[0] = posterior[1] if len(posterior) > 1 else beta[0]  # β̃_0 = 0 has no logarithm
    on_x0 = schedule.gather(before.sqrt() * beta / (1 - alpha_bar), t, x0)
    small, large = (schedule.gather(table.log(), t, x0) for table in (posterior, beta))
    logvar = small + (large - small) * fraction
    # Both means are on_x0 * x_0 plus the same multiple of x_t, which drops out of the KL.
    kl = normal_kl(on_x0 * x0, small, on_x0 * x0_pred, logvar)
    # At t = 0 the mean is x_0 itself. Elsewhere the likelihood is evaluated where it and its
    # gradient are finite: `where` would pass on the NaN of an unused branch.
    first = (t == 0).reshape(-1, *[1] * (x0.ndim - 1))
    nll = discretised_gaussian_nll(x0, torch.where(first, x0_pred, x0), 0.5 * logvar)
    return torch.where(first, nll, kl).flatten(1).mean(1) / math.log(2)  # (N,)
