"""How like the real images of its captions a model's images are: one number for each caption.

    score = distance + missed        lower is better

**Distance** is the energy score (Gneiting and Raftery 2007, equation 22): for a caption with the real
image x and the generated g, g' it is E d(g, x) - ½ E d(g, g'). It is proper: no model gets less than
one that draws what captions stand for as often as it occurs. Blurs, burnt colours and images of
something else are far from x, and a model that always draws the same loses by the second term.
d looks at images twice, with equal weight: at their CLIP embeddings, and at what an embedding
overlooks (`looks`). Either distance is 1 for two real images of different captions, on average.

**Missed** is the share of the other captions that suit a generated image at least as well as its own,
by CLIP. It ends at 0, where images are told apart by their captions: guidance that goes on from there
only burns them, which the distance sees. CLIP's cosine itself would rise with it.

Shapes: N captions, M images a caption, D embedding width, H × W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.evaluation.metrics.retrieval import ranks

LEAST = 4
"""Captions: their real images are the yardstick, and each other's wrong answers."""
_ENDS = 0.98  # of [-1, 1]: a channel beyond is as good as clipped


@dataclass(frozen=True)
class Likeness:
    """Both parts for each caption (N,), on the CPU."""

    distance: Tensor
    missed: Tensor

    @property
    def scores(self) -> Tensor:
        return self.distance + self.missed

    @property
    def score(self) -> float:
        """The mean over captions."""
        return float(self.scores.mean())

    def less_than(self, other: "Likeness") -> tuple[float, float]:
        """By how much this score is lower, and the standard error of that over captions, which both
        were measured on."""
        difference = other.scores - self.scores
        return float(difference.mean()), float(difference.std() / len(difference) ** 0.5)


@dataclass(frozen=True)
class Real:
    """The images that belong to captions.

    Attributes:
        z_i: their embeddings (N, D), of unit length.
        looks: (N, 6), see `looks`, in units of their deviation.
        z_t: the captions' embeddings (N, D).
        captions: equal ones are equally right for an image.
    """

    z_i: Tensor
    looks: Tensor
    z_t: Tensor
    captions: Sequence[str]
    unit: Tensor

    @classmethod
    def of(cls, images: Tensor, z_i: Tensor, z_t: Tensor, captions: Sequence[str]) -> "Real":
        """From images (N, 3, H, W) in [-1, 1] and what CLIP makes of them and of their captions.

        Raises:
            ValueError: there are fewer than `LEAST`.
        """
        if len(images) < LEAST:
            raise ValueError(
                f"there are {len(images)} captioned images to measure on; it takes {LEAST} or more"
            )
        unit = looks(images).std(dim=0).clamp(min=1e-3)
        return cls(F.normalize(z_i.float(), dim=-1), looks(images) / unit, z_t, captions, unit)

    def measure(self, images: Tensor, z_i: Tensor) -> Likeness:
        """Of generated images (N, M, 3, H, W) in [-1, 1] with embeddings (N, M, D), M ≥ 2."""
        z_i = F.normalize(z_i.float(), dim=-1)
        seen = looks(images.flatten(0, 1)).unflatten(0, images.shape[:2]) / self.unit
        distance = (_energy(z_i, self.z_i) + _energy(seen, self.looks)) / 2
        return Likeness(distance.cpu().double(), self._missed(z_i).cpu().double())

    def _missed(self, z_i: Tensor) -> Tensor:
        """(N,): the share of other captions that suit the images of each at least as well."""
        code = {caption: number for number, caption in enumerate(self.captions)}
        others = torch.tensor([sum(code[x] != code[y] for y in self.captions)
                               for x in self.captions], device=z_i.device)  # fmt: skip
        nearer = [ranks(one, self.z_t, self.captions) for one in z_i.unbind(dim=1)]
        return torch.stack(nearer).float().mean(dim=0) / others.clamp(min=1)


def looks(images: Tensor) -> Tensor:
    """What an image looks like, whatever it shows (N, 6), of (N, 3, H, W) in [-1, 1]: brightness and
    its deviation (contrast), saturation and its deviation, the share of channels at the end of
    their range, and detail, the mean step from a pixel to the next."""
    images = images.float()
    grey = images.mean(dim=1)
    saturation = images.amax(dim=1) - images.amin(dim=1)
    steps = [(images.diff(dim=axis)).abs().mean(dim=(1, 2, 3)) for axis in (2, 3)]
    found = [
        *(grey.mean(dim=(1, 2)), grey.std(dim=(1, 2))),
        *(saturation.mean(dim=(1, 2)), saturation.std(dim=(1, 2))),
        (images.abs() > _ENDS).float().mean(dim=(1, 2, 3)),
        (steps[0] + steps[1]) / 2,
    ]
    return torch.stack(found, dim=1)


def _energy(made: Tensor, real: Tensor) -> Tensor:
    """The energy score of points (N, M, K) for each of (N, K), in the mean distance of two real."""
    count, many = made.shape[:2]
    apart = torch.cdist(real, real).sum() / (count * (count - 1))
    to_real = (made - real[:, None]).norm(dim=-1).mean(dim=1)
    among = torch.cdist(made, made).sum(dim=(1, 2)) / (many * (many - 1))
    return (to_real - among / 2) / apart.clamp(min=1e-6)
