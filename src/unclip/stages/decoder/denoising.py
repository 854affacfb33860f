"""The decoder's networks as guidance asks them, in wrappers that compose.

`answers` is a U-Net with all that steps share; `handing_over` lets a student answer at some
timesteps; `beside_known` adds the mask channels. Each is a `Branches`, and takes one.

Shapes: N images, C channels, h × w places of the space.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unclip.networks.unet import UNet
from unclip.stages.decoder.protocols import Branches


def answers(
    unet: UNet, timesteps: Sequence[float], given: Mapping[str, Any], count: int | None = None
) -> Branches:
    """A U-Net that answers at `timesteps` and at any others.

    Args:
        given: to `UNet.conditions`; what it is conditioned on has 2N rows where both branches are
            ever asked for, else N.
        count: N, where the rows of both branches are given but one may be asked for alone.
    """
    if not timesteps:  # nobody asks: another network answers at all of them
        return _nobody
    both = unet.conditions(timesteps, **given)
    conditional = both if count is None else both[:count]

    def network(x: Tensor, t: float, twice: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)  # at every step alike
        return unet.proceed(x, t, both if twice else conditional)

    return network


def _nobody(x: Tensor, t: float, twice: bool) -> Tensor:
    raise AssertionError(f"a network that has nothing to answer was asked at {t}")


def handing_over(network: Branches, to: Branches, when: Callable[[float], bool]) -> Branches:
    """`to` answers at the timesteps at which `when` holds, `network` at the others."""

    def either(x: Tensor, t: float, twice: bool) -> Tensor:
        return (to if when(t) else network)(x, t, twice)

    return either


def beside_known(network: Branches, known: Tensor | None) -> Branches:
    """The mask channels (N or 1, C + 1, h, w) beside x, in both branches; none for None."""
    if known is None:
        return network

    def widened(x: Tensor, t: float, twice: bool) -> Tensor:
        rows = known.to(x.dtype).repeat(len(x) // len(known), 1, 1, 1)
        return network(torch.cat([x, rows], dim=1), t, twice)

    return widened
