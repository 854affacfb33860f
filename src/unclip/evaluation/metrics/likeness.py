"""How like the real images of its captions a model's images are: one number for each caption.

    score = distance + missed        lower is better

**Distance** is the energy score (Gneiting and Raftery 2007, equation 22): for a caption with the
real image x and the generated g, g' it is E d(g, x) - ½ E d(g, g'). It is proper: no model gets
less than one that draws what captions stand for as often as it occurs. Blurs, burnt colours and
images of something else are far from x, and a model that always draws the same loses by the second
term. d looks at images twice, with equal weight: at their CLIP embeddings, and at what an embedding
overlooks (`looks`). Either distance is 1 for two real images of different captions, on average.

**Missed** is log(1 + r) / log(1 + w) of the rank r that a generated image's own caption has by
CLIP: how many of w wrong captions suit the image at least as well. It is 0 where none does and 1
where all do. It ends at 0, where images are told apart by their captions: guidance that goes on
from there only burns them, which the distance sees. CLIP's cosine itself would rise with it.

Shapes: N captions, K of them, L with wrong ones; M images a caption, D embedding width, H × W
pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 4
"""Captions: their real images are the yardstick, and each other's wrong answers."""
_ENDS = 0.98  # of [-1, 1]: a channel beyond is as good as clipped


@dataclass(frozen=True)
class Likeness:
    """Both parts for each caption (N,)."""

    distance: Tensor
    missed: Tensor

    @property
    def scores(self) -> Tensor:
        return self.distance + self.missed

    def __add__(self, other: "Likeness") -> "Likeness":
        """Of the captions of both."""
        both = (self, other)
        return Likeness(*(torch.cat([getattr(one, name) for one in both]) for name in vars(self)))

    @property
    def score(self) -> float:
        """The mean over captions."""
        return float(self.scores.mean())

    def less_than(self, other: "Likeness") -> tuple[float, float]:
        """By how much this score is lower, and the standard error of that over captions: those that
        this one was measured on, which the other's begin with."""
        difference = other.scores[: len(self.scores)] - self.scores
        return float(difference.mean()), float(difference.std() / len(difference) ** 0.5)


@dataclass(frozen=True)
class Real:
    """The images that belong to captions.

    Attributes:
        z_i: their embeddings (N, D), of unit length.
        looks: (N, 6), see `looks`, in units of their deviation.
        z_t: embeddings of the captions, and of further wrong ones (L, D).
        captions: all L; equal ones are equally right for an image.
        unit: that deviation (6,).
    """

    z_i: Tensor
    looks: Tensor
    z_t: Tensor
    captions: Sequence[str]
    unit: Tensor

    @classmethod
    def of(cls, images: Tensor, z_i: Tensor, z_t: Tensor, captions: Sequence[str]) -> "Real":
        """From images (N, 3, H, W) in [-1, 1] and what CLIP makes of them and of captions, of which
        the first N are theirs.

        Raises:
            ValueError: there are fewer than `LEAST`.
        """
        if len(images) < LEAST:
            raise ValueError(
                f"there are {len(images)} captioned images to measure on; it takes {LEAST} or more"
            )
        unit = looks(images).std(dim=0).clamp(min=1e-3)
        return cls(F.normalize(z_i.float(), dim=-1), looks(images) / unit, z_t, captions, unit)

    def measure(self, images: Tensor, z_i: Tensor, first: int = 0) -> Likeness:
        """Of generated images (K, M, 3, H, W) in [-1, 1] with embeddings (K, M, D), M ≥ 2, for K of
        the captions from `first` on."""
        z_i, part = F.normalize(z_i.float(), dim=-1), slice(first, first + len(images))
        seen = looks(images.flatten(0, 1)).view(*images.shape[:2], -1) / self.unit
        distance = (
            _energy(z_i, self.z_i[part], self.z_i) + _energy(seen, self.looks[part], self.looks)
        ) / 2
        return Likeness(distance.double(), self._missed(z_i, part).double())

    def _missed(self, z_i: Tensor, part: slice) -> Tensor:
        """(K,): by the rank of each one's own among all captions."""
        numbers = {caption: number for number, caption in enumerate(self.captions)}
        code = torch.tensor([numbers[caption] for caption in self.captions])
        right = (code[part, None] == code)[:, None]  # (K, 1, L)
        cosine = z_i @ F.normalize(self.z_t.float(), dim=-1).T  # (K, M, L)
        own = cosine.masked_fill(~right, -torch.inf).amax(dim=-1, keepdim=True)
        rank = ((cosine >= own) & ~right).sum(dim=-1).double().log1p()  # (K, M)
        return rank.mean(dim=1) / (~right).sum(dim=(1, 2)).clamp(min=1).double().log1p()


def looks(images: Tensor) -> Tensor:
    """What an image looks like, whatever it shows (N, 6), of (N, 3, H, W) in [-1, 1]: brightness
    and its deviation (contrast), saturation and its deviation, the share of channels at the end of
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


def _energy(made: Tensor, own: Tensor, real: Tensor) -> Tensor:
    """The energy score of points (K, M, F) for each of (K, F), in the mean distance of two of the
    real ones (N, F)."""
    apart = torch.cdist(real, real).sum() / (len(real) * (len(real) - 1))
    many = made.shape[1]
    to_own = (made - own[:, None]).norm(dim=-1).mean(dim=1)
    among = torch.cdist(made, made).sum(dim=(1, 2)) / (many * (many - 1))
    score: Tensor = (to_own - among / 2) / apart.clamp(min=1e-6)
    return score
