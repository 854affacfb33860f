"""The geometry of embeddings: lengths, end points, and vectors that are hard to turn between."""

import math

import pytest
import torch

from unclip.pipeline.latent_space import (
    mean_direction,
    path,
    slerp,
    text_diff,
    towards,
)

THETAS = torch.linspace(0, 1, 9, dtype=torch.float64)


def vectors(count: int, width: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def along(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """slerp at nine θ."""
    return slerp(a.expand(9, -1), b.expand(9, -1), THETAS)


def angles(points: torch.Tensor) -> torch.Tensor:
    """Between each and the next, in double precision."""
    unit = torch.nn.functional.normalize(points.double(), dim=1)
    return (unit[1:] * unit[:-1]).sum(dim=1).clamp(-1, 1).acos()


def test_slerp_ends_exactly_and_turns_evenly() -> None:
    a, b = vectors(2).split(1)
    points = along(a, b)
    assert torch.equal(points[:1], a)
    assert torch.equal(points[-1:], b)
    assert torch.allclose(angles(points), angles(points).mean(), atol=1e-5)


def test_slerp_keeps_equal_lengths_and_passes_evenly_between_others() -> None:
    a, b = torch.nn.functional.normalize(vectors(2), dim=1).split(1)
    assert torch.allclose(along(3 * a, 3 * b).norm(dim=1), torch.tensor(3.0))
    assert torch.allclose(along(2 * a, 6 * b).norm(dim=1), 2 + 4 * THETAS.float())


def test_slerp_is_the_great_circle() -> None:
    a, b = torch.eye(3)[:1], torch.eye(3)[1:2]
    expected = torch.tensor([[math.cos(math.pi / 6), math.sin(math.pi / 6), 0.0]])
    assert torch.allclose(slerp(a, b, 1 / 3), expected)
    images = vectors(2, 48).view(2, 3, 4, 4)  # x_T, of any shape
    flat = slerp(images[:1].flatten(1), images[1:].flatten(1), 0.3)
    assert torch.equal(slerp(images[:1], images[1:], 0.3).flatten(1), flat)


def test_parallel_and_opposite_vectors() -> None:
    a = vectors(1)
    assert torch.allclose(along(a, 3 * a), a * (1 + 2 * THETAS[:, None]).float())
    assert torch.allclose(along(a, a * (1 + 1e-12)), a.expand(9, -1))
    points = along(a, -a)
    assert torch.equal(points[-1:], -a)
    assert torch.allclose(points.norm(dim=1), a.norm().expand(9))
    assert torch.allclose(angles(points), torch.tensor(math.pi / 8).double(), atol=1e-5)
    assert torch.equal(points, along(a, -a))  # the same great circle every time


@pytest.mark.parametrize(
    ("a", "b", "theta", "says"),
    [
        (vectors(1), vectors(1, 11), 0.5, "shapes must agree"),
        (vectors(1), vectors(1, seed=1), 1.01, "between 0 and 1"),
        (vectors(1), vectors(1, seed=1), -0.01, "between 0 and 1"),
        (vectors(1), vectors(1, seed=1), math.nan, "between 0 and 1"),
        (vectors(1), torch.zeros(1, 12), 0.5, "no direction"),
    ],
)
def test_what_slerp_refuses(a: torch.Tensor, b: torch.Tensor, theta: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        slerp(a, b, theta)


def test_paths_pass_through_every_point() -> None:
    points = vectors(3)
    frames = path(points, 9)
    assert torch.equal(frames[[0, 4, 8]], points)
    assert torch.allclose(frames[2:3], slerp(points[:1], points[1:2], 0.5))
    with pytest.raises(ValueError, match="at least 2 of each"):
        path(points[:1], 9)
    with pytest.raises(ValueError, match="at least 2 of each"):
        path(points, 1)


def test_weighted_means() -> None:
    points = vectors(3)
    two = mean_direction(points[:2], [3, 1])
    assert torch.allclose(two, slerp(points[:1], points[1:2], 0.25))
    assert torch.equal(mean_direction(points, [0, 2, 0]), points[1:2])
    for weights in ([1, 1], [1, -1, 1], [0, 0, 0], [1, math.nan, 1], [1, math.inf, 1]):
        with pytest.raises(ValueError, match="weights"):
            mean_direction(points, weights)


def test_text_diffs() -> None:
    z_i, target, base = vectors(3).split(1)
    z_d = text_diff(target, base)
    assert torch.allclose(z_d.norm(), torch.tensor(1.0))
    assert torch.allclose(z_d * (target - base).norm(), target - base, atol=1e-6)
    assert torch.equal(towards(z_i, z_d, 0.0), z_i)
    assert torch.allclose(towards(z_i, z_d, 1.0), z_d * z_i.norm())
    assert torch.allclose(towards(z_i, z_d, 0.4).norm(), z_i.norm())
    with pytest.raises(ValueError, match="nothing to change"):
        text_diff(target, target.clone())
