"""The aesthetic score of the built-in world: a stated function of the scene in the place of raters,
and a linear probe of CLIP's embeddings that has learned it, as the paper's (section 5.3).

Shapes: N images, D width of z_i.
"""

from dataclasses import dataclass
from math import hypot, sqrt
from typing import Final

import torch
from torch import Tensor

from unclip.data.world.scene import PALETTE, Scene
from unclip.data.world.scenery import PAINTED, contrast, surroundings

_FARTHEST: Final = 765  # of `contrast`, its root: of black from white
_RIDGE: Final = 1e-3  # of the embeddings' mean variance
_HELD: Final = 5  # one in so many is not fitted to


def rating(scene: Scene) -> float:
    """What a rater would say, about 1 to 10: objects that stand out, are large and lie near the
    middle please, and so do painted backgrounds.

    4 + 3 · the least contrast of an object (0 to 1) + 3 · the largest object's side - 4 · the
    distance of the objects' common centre from the middle, in sides, + 1 where the background is
    painted.
    """
    around = surroundings(scene.background.kind, scene.background.colours)
    things = scene.objects
    clear = min(contrast(PALETTE[one.colour], other) for one in things for other in around)
    x = sum(one.x for one in things) / len(things)
    y = sum(one.y for one in things) / len(things)
    return (
        4
        + 3 * min(1.0, sqrt(clear) / _FARTHEST)
        + 3 * max(one.extent for one in things)
        - 4 * hypot(x - 0.5, y - 0.5)
        + (scene.background.kind in PAINTED)
    )


@dataclass(frozen=True)
class Probe:
    """A linear function of z_i of unit length; r2 on embeddings that it was not fitted to."""

    weights: Tensor
    bias: float
    r2: float

    @classmethod
    def fitted(cls, z_i: Tensor, ratings: Tensor) -> "Probe":
        """To embeddings (N, D) and their ratings (N,), by ridge regression."""
        x, y = _unit(z_i), ratings.double()
        held = torch.arange(len(x)) % _HELD == 0
        weights, bias = _ridge(x[~held], y[~held])
        missed = (y[held] - x[held] @ weights - bias).square().sum()
        total = (y[held] - y[held].mean()).square().sum().clamp(min=1e-12)
        return cls(weights, bias, float(1 - missed / total))

    def __call__(self, z_i: Tensor) -> Tensor:
        """Scores (N,)."""
        return _unit(z_i) @ self.weights + self.bias


def _unit(z_i: Tensor) -> Tensor:
    return torch.nn.functional.normalize(z_i.double(), dim=1)


def _ridge(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    middle, level = x.mean(dim=0), y.mean()
    gram = (x - middle).T @ (x - middle)
    gram += _RIDGE * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)
    weights = torch.linalg.solve(gram, (x - middle).T @ (y - level))
    return weights, float(level - middle @ weights)
