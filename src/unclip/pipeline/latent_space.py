"""The geometry of embeddings: between two, towards a text.

Shapes: N embeddings, D their width, F points of a path, ... the dimensions of one.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.checks import listed, many, real_number, shown, whole_number
from unclip.pipeline.settings import edit_guidance

_ALIGNED = 1e-7  # sine below which two directions are taken for parallel or opposite


class Points(NamedTuple):
    """What images are decoded from.

    Attributes:
        z_i: (N, D).
        x_T: (N, 3, h, h); None: fresh noise.
        scales: N guidance scales of the decoder, where settings leave it open; None: as they do.
    """

    z_i: Tensor
    x_T: Tensor | None = None  # noqa: N815
    scales: Sequence[float] | None = None


def slerp(a: Tensor, b: Tensor, theta: Tensor | float) -> Tensor:
    """From a (θ = 0, exactly a) to b (θ = 1, exactly b), turning at an even rate (section 3.2).

    The direction moves along the great circle, the length from |a| to |b| linearly: equal lengths
    are kept. Between opposite vectors there are many great circles; the one through the coordinate
    axis of a's smallest component is taken, so that the result is always the same.

    Args:
        a, b: (N, ...) each.
        theta: one θ for all, or (N,).

    Returns:
        (N, ...), in the precision of a, computed in float64.

    Raises:
        ValueError: the shapes differ, θ is outside [0, 1], or a vector is zero: it points nowhere.
    """
    if a.shape != b.shape:
        raise ValueError(f"cannot go from {tuple(a.shape)} to {tuple(b.shape)}: shapes must agree")
    weight = torch.as_tensor(theta, dtype=torch.float64).to(a.device).expand(len(a))[:, None]
    if not bool(((weight >= 0) & (weight <= 1)).all()):
        raise ValueError(f"θ is {theta}; it must lie between 0 and 1")
    start, end = a.flatten(1).double(), b.flatten(1).double()  # (N, P)
    lengths = start.norm(dim=1, keepdim=True), end.norm(dim=1, keepdim=True)
    if not bool(((lengths[0] > 0) & (lengths[1] > 0)).all()):
        raise ValueError("an embedding is zero: it has no direction to turn from or to")
    u, v = start / lengths[0], end / lengths[1]
    cosine = (u * v).sum(dim=1, keepdim=True)
    across = v - cosine * u
    sine = across.norm(dim=1, keepdim=True)
    axis = F.one_hot(u.abs().argmin(dim=1), u.shape[1]).double()
    aside = F.normalize(axis - (axis * u).sum(dim=1, keepdim=True) * u, dim=1)
    across = torch.where(sine > _ALIGNED, across / sine.clamp(min=_ALIGNED), aside)
    angle = weight * torch.atan2(torch.where(sine > _ALIGNED, sine, 0 * sine), cosine)
    turned = torch.cos(angle) * u + torch.sin(angle) * across
    result = turned * torch.lerp(lengths[0], lengths[1], weight)
    result = torch.where(weight == 0, start, torch.where(weight == 1, end, result))
    return result.view(a.shape).to(a.dtype)


def path(points: Tensor, frames: int) -> Tensor:
    """(frames, ...) along the great circles from each of `points` (N, ...) to the next.

    θ grows evenly from 0 to 1 over the whole path; with at least one frame for each point, and
    frames - 1 divisible by N - 1, every point is among the frames.

    Raises:
        ValueError: fewer than two points or frames.
    """
    frames = check_frames(frames, len(points))
    at = torch.arange(frames, dtype=torch.float64) * (len(points) - 1) / (frames - 1)
    leg = at.floor().long().clamp(max=len(points) - 2)
    return slerp(points[leg], points[leg + 1], at - leg)


def check_frames(frames: int, points: int) -> int:
    """The number of frames, unless it or that of the points is below two."""
    frames = whole_number(frames, "frames")
    if points < 2 or frames < 2:
        raise ValueError(f"{shown(frames)} frames between {points} images: take at least 2 of each")
    return frames


def check_weights(weights: Sequence[float], points: int) -> list[float]:
    """The weights, unless they are not as many as the points, negative, infinite or all 0."""
    numbers = [real_number(weight, "one of the weights") for weight in listed(weights)]
    if len(numbers) != points:
        raise ValueError(f"{many(len(numbers), 'weights were')} given for {many(points, 'images')}")
    if min(numbers) < 0 or not 0 < sum(numbers) < math.inf:
        raise ValueError("weights must be 0 or more, and one of them above 0")
    return numbers


def mean_direction(points: Tensor, weights: Sequence[float]) -> Tensor:
    """One embedding (1, ...) from several (N, ...), each with its weight.

    They are taken in one after the other, z ← slerp(z, z_k, w_k / (w_1 + … + w_k)): for two it is
    `slerp`, for more the order matters a little.

    Raises:
        ValueError: another number of weights; a negative one or none above 0.
    """
    weights = check_weights(weights, len(points))
    total, mean = 0.0, points[:1]
    for point, weight in zip(torch.split(points, 1), weights, strict=True):
        total += weight
        if weight > 0:
            mean = point if weight == total else slerp(mean, point, weight / total)
    return mean


def check_thetas(theta: float | Sequence[float] | Tensor) -> list[float]:
    """One θ or several as a list.

    Raises:
        ValueError: there is none; one is no number, or outside [0, 1].
    """
    thetas = [real_number(value, "θ", 0, 1) for value in listed(theta)]
    if not thetas:
        raise ValueError("there is no θ: give one or several between 0 and 1")
    return thetas


def text_diff(target: Tensor, base: Tensor) -> Tensor:
    """z_d = normalise(z_t(target) - z_t(base)) (section 3.3); all are (N, D).

    Raises:
        ValueError: the two texts have the same embedding.
    """
    difference = target - base
    if not bool((difference.norm(dim=1) > 1e-6 * target.norm(dim=1)).all()):
        raise ValueError("both texts have the same embedding, so there is nothing to change")
    return F.normalize(difference, dim=1)


def towards(z_i: Tensor, direction: Tensor, theta: Tensor | float) -> Tensor:
    """slerp(z_i, z_d, θ) (section 3.3), z_d as long as z_i, so that only the direction changes.

    CLIP's embeddings are not of unit length, and z_d is; the paper does not say how they meet.
    """
    return slerp(z_i, direction * z_i.norm(dim=1, keepdim=True), theta)


def text_edited(
    z_i: Tensor, x_t: Tensor | None, direction: Tensor, thetas: Sequence[float]
) -> Points:
    """Images (N) on their way towards z_d (1, D): one for each θ (section 3.3). With noise of their
    own, guidance grows with θ (`edit_guidance`)."""
    own, by = z_i.repeat_interleave(len(thetas), dim=0), [*thetas] * len(z_i)
    moved = towards(own, direction.expand_as(own), torch.tensor(by, dtype=torch.float64))
    if x_t is None:
        return Points(moved)
    start = x_t.repeat_interleave(len(thetas), dim=0)
    return Points(moved, start, [edit_guidance(theta) for theta in by])
