"""From what a network outputs to what a sampler needs, and from data to what a network is taught.

With α = sqrt(ᾱ_t) and σ = sqrt(1 - ᾱ_t), so that x_t = α x_0 + σ ε, a network predicts one of

    "epsilon"       ε                                      (DDPM, arXiv 2006.11239)
    "sample"        x_0                                    (unCLIP's prior, section 2.2)
    "v_prediction"  v = α ε - σ x_0                        (Salimans & Ho, arXiv 2202.00512)

Shapes: N batch, C channels (dimension 1), ... the remaining dimensions, if any.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of x_t; x_0 and ε agree: x_t = α x_0 + σ ε.

    Attributes:
        x0: (N, C, ...) predicted clean data.
        eps: (N, C, ...) predicted noise.
        variance: (N, C, ...) where the log-variance lies between log β̃ (0) and log β (1), nominally
            in [0, 1] (Improved DDPM, eq. 15), or None where it is fixed to β̃.
    """

    x0: Tensor
    eps: Tensor
    variance: Tensor | None = None


Denoiser = Callable[[Tensor, Tensor], Prediction]
"""(x_t (N, C, ...), t (N,) or () timesteps of the training schedule) -> Prediction.

t is any timestep, whole (long) or between (float), whatever was planned. Samplers give the same for
all samples, on the CPU whatever the device of x_t: it can be read without waiting for a GPU.
"""

Noise = Callable[[Tensor], Tensor]
"""A tensor like x_t -> standard normal noise of its shape, dtype and device."""


def shared_timestep(t: Tensor) -> float:
    """The timestep of all samples, from what samplers give, (N,) or (); an int if it is whole."""
    step = t.reshape(-1)[0].item()
    return int(step) if step == int(step) else step


def at_least_float32(x: Tensor) -> Tensor:
    """Half precisions become float32; float32 and float64 stay: losses and sampling need them."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def to_x0(output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, kind: str) -> Tensor:
    """The x_0 (N, C, ...) that a prediction of type ``kind`` stands for, unclipped."""
    if kind == "epsilon":
        return (x_t - sigma * output) / alpha
    if kind == "v_prediction":
        return alpha * x_t - sigma * output
    assert kind == "sample", kind
    return output


def dynamic_threshold(x0: Tensor, percentile: float, bound: float = 1.0) -> Tensor:
    """Imagen's dynamic thresholding (Saharia et al., arXiv 2205.11487, section 2.3).

    Each sample is clipped to ±s, s its ``percentile`` of absolute values but not below ``bound``,
    and scaled by bound / s: strong guidance then moves saturated pixels inwards.

    Args:
        x0: (N, ...) predicted data, whose range should be ±``bound``.
        percentile: in (0, 1]; Imagen: 0.995.

    Raises:
        ValueError: the percentile is outside (0, 1].
    """
    if not 0 < percentile <= 1:
        raise ValueError(f"The threshold percentile is {percentile}; choose it in (0, 1].")
    # Sample by sample: torch.quantile takes at most 2^24 values, less than a batch of 1024² images.
    s = torch.stack([sample.abs().flatten().quantile(percentile) for sample in x0])
    s = s.clamp(min=bound).reshape(-1, *[1] * (x0.ndim - 1))  # (N, 1, ...)
    return torch.clamp(x0, -s, s) * (bound / s)
