"""How like the real images of its captions a model's images are: one number, lower is better.

    score = far + missed + unlike

**Far** is the mean distance of a generated image from the real image of its caption, of their CLIP
embeddings: other things, colours and places are far.

**Missed** is log(1 + r) / log(1 + w) of the rank r that a generated image's own caption has by
CLIP: how many of w wrong captions suit the image at least as well. It is 0 where none does and 1
where all do. It ends at 0, where images are told apart by their captions; CLIP's cosine itself
would rise with guidance until pictures burn.

**Unlike** is the energy distance (Székely and Rizzo 2013) of all generated images from all real
ones, without bias, 2 E|g - x| - E|g - g'| - E|x - x'|, of their embeddings and, added to that, of
what these overlook, `looks`. It is 0 where the images of a model are distributed as the real ones.
Burnt, washed-out, blurred and noisy images are unlike real ones, and so are images that are all the
same.

Distances are in the mean distance of two real images. docs/experiments.md (2026-11-26) holds the
number against a judge that knows the truth.

Shapes: N captions, K of them, L with wrong ones; M images a caption, D embedding width, H × W
pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.checks import many

LEAST = 4
"""Captions: their real images are the yardstick, and each other's wrong answers."""
_ENDS = 0.98  # of [-1, 1]: a channel beyond is as good as clipped


@dataclass(frozen=True)
class Seen:
    """Generated images as they are measured, of the first K captions.

    Attributes:
        z_i: embeddings (K, M, D), of unit length.
        looks: (K, M, 6), in the real images' deviations.
    """

    z_i: Tensor
    looks: Tensor

    def __add__(self, other: "Seen") -> "Seen":
        """With those of the captions after them."""
        return Seen(torch.cat([self.z_i, other.z_i]), torch.cat([self.looks, other.looks]))


@dataclass(frozen=True)
class Likeness:
    """The parts of the score for each of K captions (K,); their means are the parts."""

    far: Tensor
    missed: Tensor
    unlike: Tensor

    @property
    def scores(self) -> Tensor:
        return self.far + self.missed + self.unlike

    @property
    def score(self) -> float:
        """The mean over captions."""
        return float(self.scores.mean())

    def less_than(self, other: "Likeness") -> tuple[float, float]:
        """By how much this score is lower, and the standard error of that over captions: those that
        this one was measured on, which the other's begin with. (`unlike` has for each caption its
        jackknife pseudo-value, whose spread is that of the mean.)"""
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
                f"{many(len(images), 'captioned images')} cannot be measured on; it takes {LEAST} "
                "or more"
            )
        unit = looks(images).std(dim=0).clamp(min=1e-3)
        return cls(F.normalize(z_i.float(), dim=-1), looks(images) / unit, z_t, captions, unit)

    def seen(self, images: Tensor, z_i: Tensor) -> Seen:
        """Generated images (K, M, 3, H, W) in [-1, 1] with embeddings (K, M, D)."""
        found = looks(images.flatten(0, 1)).view(*images.shape[:2], -1)
        return Seen(F.normalize(z_i.float(), dim=-1), found / self.unit)

    def measure(self, seen: Seen) -> Likeness:
        """The score of images of the first K ≥ 2 captions."""
        own = self.z_i[: len(seen.z_i), None]
        far = (seen.z_i - own).norm(dim=-1).mean(dim=1) / _apart(self.z_i)
        unlike = _unlike(seen.z_i, self.z_i) + _unlike(seen.looks, self.looks)
        return Likeness(far.double(), self._missed(seen.z_i), unlike.double())

    def _missed(self, z_i: Tensor) -> Tensor:
        """(K,): by the rank of each one's own among all captions."""
        numbers = {caption: number for number, caption in enumerate(self.captions)}
        code = torch.tensor([numbers[caption] for caption in self.captions])
        right = (code[: len(z_i), None] == code)[:, None]  # (K, 1, L)
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


def _apart(real: Tensor) -> Tensor:
    """The mean distance of two of (N, F)."""
    apart: Tensor = torch.cdist(real, real).sum() / (len(real) * (len(real) - 1))
    return apart.clamp(min=1e-6)


def _unlike(made: Tensor, real: Tensor) -> Tensor:
    """(K,): jackknife pseudo-values of the energy distance between points (K, M, F) and (N, F), in
    the mean distance of two real ones. Only points of different captions are held against each
    other: those of one caption are not drawn independently."""
    count = len(made)
    cross = torch.cdist(made, real[None].expand(count, -1, -1)).mean(dim=1)  # (K, N)
    among = torch.cdist(made.flatten(0, 1), made.flatten(0, 1))
    among = among.view(count, made.shape[1], count, made.shape[1]).mean(dim=(1, 3))  # (K, K)
    own, whole = real[:count], len(real)

    def others(distances: Tensor) -> Tensor:
        """Mean over the other captions, of rows (K, …) whose first K columns are the same ones."""
        return (distances.sum(dim=1) - distances.diagonal()) / (distances.shape[1] - 1)

    back = (cross[:, :count].sum(dim=0) - cross.diagonal()) / (count - 1)
    each = others(cross) + (back if count == whole else others(cross))
    each = each - others(among) - others(torch.cdist(own, real))
    scores: Tensor = (2 * each - each.mean()) / _apart(real)
    return scores
