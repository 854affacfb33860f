"""Whether a model's losses tell the images that it was trained on from others.

Somebody who has the model asks it to denoise an image (Carlini et al., arXiv 2301.13188, section
5.2; Matsumoto et al., 2302.03262): what it was trained on is denoised better, if it was learned by
heart. Every image gets the same noise at the same timesteps. The area under the curve (AUC) is how
likely a training image has a lower loss than an unseen one: ½ where the loss says nothing.

Shapes: M training images, N others.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from unclip.batch import Batch
from unclip.evaluation.intervals import Estimate, Rate, Z
from unclip.stages.decoder import DecoderStage

TIMES: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Of all timesteps: later ones hide everything that could be known by heart."""
_STRICT: Final = 0.01  # rate of false alarms at which memorised images are counted


@dataclass(frozen=True)
class Membership:
    """What the losses say.

    Attributes:
        auc: of training images against unseen ones.
        control: the same of one half of the unseen ones against the other: ½ but for chance.
        strict: training images whose loss is below that of all but 1 % of the unseen ones.
    """

    auc: Estimate
    control: Estimate
    strict: Rate


def membership(members: Tensor, others: Tensor) -> Membership:
    """From losses (M,) of training images and (N,) of unseen ones.

    Raises:
        ValueError: there are fewer than 4 of either, or one is not finite.
    """
    if min(len(members), len(others)) < 4:
        raise ValueError("losses are compared of 4 training images or more, and of as many others")
    if not (members.isfinite().all() and others.isfinite().all()):
        raise ValueError("the model's losses are not finite")
    limit = others.sort().values[int(_STRICT * len(others))]
    strict = Rate(int((members < limit).sum()), len(members))
    return Membership(auc(members, others), auc(others[0::2], others[1::2]), strict)


def auc(lower: Tensor, higher: Tensor) -> Estimate:
    """P(x < y) + ½ P(x = y) for x of (M,) and y of (N,), with Newcombe's interval of 2006 (method
    5), which is of use at 0 and 1 too: it inverts Hanley and McNeil's standard error."""
    m, n = len(lower), len(higher)
    ranks = torch.searchsorted(higher.sort().values, lower.contiguous())
    until = torch.searchsorted(higher.sort().values, lower.contiguous(), right=True)
    value = float(((n - until).double() + 0.5 * (until - ranks).double()).sum()) / (m * n)

    def error(p: float) -> float:
        middle = (m + n) / 2 - 1
        spread = 1 + middle * ((1 - p) / (2 - p) + p / (1 + p))
        return math.sqrt(max(0.0, p * (1 - p) * spread / (m * n)))

    low = _bisected(lambda p: value - p - Z * error(p), 0.0, value)
    high = _bisected(lambda p: value - p + Z * error(p), value, 1.0)
    return Estimate(value, low, high)


def _bisected(excess: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that falls from above 0 to below it crosses 0."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2


def losses(
    decoder: DecoderStage,
    batches: Iterable[Batch],
    seed: int,
    progress: Callable[[int], Any] = lambda count: None,
) -> Tensor:
    """The mean error (N,) of denoising images, with captions and embeddings of their own.

    Args:
        batches: images (n, 3, H, H) of the decoder's size, and captions.
        seed: of the noise.
        progress: is told how many more images are done.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    side, channels = decoder.side, decoder.space.channels
    noise = torch.randn(len(TIMES), channels, side, side, generator=generator)
    last = len(decoder.process.schedule) - 1
    times = [round(fraction * last) for fraction in TIMES]
    found = []
    for batch in batches:
        errors = [decoder.errors(batch, t, noise[k]) for k, t in enumerate(times)]
        found.append(torch.stack(errors).mean(dim=0).float().cpu())
        progress(len(batch["images"]))
    return torch.cat(found)
