"""Classifier-free guidance (Ho & Salimans, arXiv 2207.12598), on raw network outputs.

unCLIP (section 2.1) and Karlo guide what the network predicts (ε in the decoder, x_0 in the prior)
before x_0 is clipped; the learned variance is the conditional branch's.

Shapes: N batch, C channels of the data, ... the remaining dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from unclip.checks import check_interval
from unclip.config import Between, Checked, Interval, Probability, Scale
from unclip.diffusion.prediction import at_least_float32, shared_timestep

Scales = Annotated[tuple[Scale, ...], Between(1, 1000)]


@dataclass(frozen=True)
class Guidance(Checked):
    """How strongly, and at which noise levels, the condition is exaggerated.

    Args:
        scale: 1 is the conditional model itself, 0 the unconditional one, above 1 exaggerates;
            of all samples, or of each.
        interval: (lowest, highest) noise level σ = sqrt((1 - ᾱ) / ᾱ) at which to guide, both
            included; elsewhere the conditional model alone is used (Kynkäänniemi et al., arXiv
            2404.07724). σ, noise over signal, means the same in every schedule. None: all.
        distilled: a network that has learned the guided prediction gives it at once (Meng et al.,
            arXiv 2210.03142, section 3.1): half the cost, an approximation.
        rescale: φ in [0, 1], how far the guided output returns to the conditional one's standard
            deviation (Lin et al., arXiv 2305.08891, section 3.4).

    Raises:
        ValueError: a value is out of range.
    """

    scale: Scale | Scales = 1.0
    interval: Interval | None = None
    rescale: Probability = 0.0
    distilled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self.interval, "interval")

    @property
    def one_scale(self) -> float:
        """The scale, where it is one for all samples."""
        assert isinstance(self.scale, float)
        return self.scale

    def active(self, sigma: float) -> bool:
        """Whether noise level σ needs the unconditional branch at all: without, half the cost."""
        inside = self.interval is None or self.interval[0] <= sigma <= self.interval[1]
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        return inside and any(scale != 1 for scale in scales)

    def __call__(self, cond: Tensor, uncond: Tensor, channels: int) -> Tensor:
        """``guided`` with this scale and rescale; several rows of a sample follow each other."""
        scale: float | Tensor
        if isinstance(self.scale, tuple):
            each = len(cond) // len(self.scale)
            rows = torch.tensor(self.scale, dtype=torch.float32).repeat_interleave(each)
            scale = rows.view(-1, *[1] * (cond.ndim - 1)).to(cond.device)
        else:
            scale = self.scale
        return guided(cond, uncond, scale, channels=channels, rescale=self.rescale)


def guided(
    cond: Tensor,
    uncond: Tensor,
    scale: float | Tensor,
    *,
    channels: int | None = None,
    rescale: float = 0.0,
) -> Tensor:
    """uncond + scale (cond - uncond)                           (Ho & Salimans, eq. 6, s = 1 + w).

    Args:
        cond, uncond: (N, C or 2C, ...) raw outputs with and without the condition.
        scale: s, of all or (N, 1, ...) of each.
        channels: C, the leading channels to guide; the others (learned variance) come from
            ``cond``. None guides them all.
        rescale: see ``Guidance``.

    Returns:
        As ``cond``, in float32 at least: scales above 1 amplify the rounding of half precisions.

    Raises:
        ValueError: the outputs differ in shape.
    """
    if cond.shape != uncond.shape:
        raise ValueError(
            f"The guided outputs differ in shape, {tuple(cond.shape)} and {tuple(uncond.shape)}; "
            "call the network on the same x_t in both branches."
        )
    cond, uncond = at_least_float32(cond), at_least_float32(uncond)
    channels = cond.shape[1] if channels is None else channels
    c, u = cond[:, :channels], uncond[:, :channels]
    result = u + scale * (c - u)
    if rescale:
        dims = tuple(range(1, c.ndim))
        ratio = c.std(dims, keepdim=True) / result.std(dims, keepdim=True)  # Lin et al., eq. 15
        result = result * (rescale * ratio + 1 - rescale)  # Lin et al., eq. 16
    if channels == cond.shape[1]:
        return result
    guided_output = cond.clone()
    guided_output[:, :channels] = result
    return guided_output


def guide(
    network: Callable[[Tensor, float, bool], Tensor],
    guidance: Guidance,
    both: Callable[[float], bool],
    channels: int,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Classifier-free guidance around a network that can answer both branches in one batch.

    Args:
        network: (x, timestep, both) -> raw output; with ``both``, x is [x, x] and the output holds
            the conditional answers before the unconditional ones.
        both: whether a timestep needs both.
        channels: C of the data, without learned variances.
    """

    def output(x: Tensor, t: Tensor) -> Tensor:
        step = shared_timestep(t)
        if not both(step):
            return network(x, step, False)
        cond, uncond = network(torch.cat([x, x]), step, True).chunk(2)
        return guidance(cond, uncond, channels)

    return output
