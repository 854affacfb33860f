"""How unlike images are to each other, and how like to their captions; by their features alone.

Shapes: N images, D width of features.
"""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from unclip.checks import shown
from unclip.evaluation.intervals import Estimate, jackknife, mean
from unclip.evaluation.metrics.matrices import directions, paired


def diversity(features: Tensor, groups: Sequence[Hashable] | None = None) -> Estimate:
    """The mean distance of two images, 1 - cosine of their features (N, D): 0 where all are alike.

    Args:
        groups: of each image what it was made for, its caption say: only images for the same are
            then held against each other, each group counts once, and those of one image for
            nothing. The interval is that of new groups.

    Raises:
        ValueError: see `directions`; other groups than rows, or no group of two.
    """
    rows = directions(features)
    if groups is None:
        value, pulls = _apart(rows)
        return jackknife(value, pulls, least=0.0)
    if len(groups) != len(rows):
        raise ValueError(f"{len(groups)} groups were given for {len(rows)} images")
    members: dict[Hashable, list[int]] = {}
    for number, group in enumerate(groups):
        if not isinstance(group, Hashable):
            raise ValueError(f"groups are names or numbers, such as captions, not {shown(group)}")
        members.setdefault(group, []).append(number)
    values = [_apart(rows[of])[0] for of in members.values() if len(of) > 1]
    if not values:
        raise ValueError("no two images were made for the same; make several for each caption")
    return mean(torch.tensor(values))


def clip_score(z_i: Tensor, z_t: Tensor) -> Estimate:
    """100 times the mean cosine of images and their captions, CLIP's embeddings (N, D) of both.

    Hessel et al. (arXiv 2104.08718) call 2.5 times the cosine CLIPScore; 100 times is what most
    report. Guidance raises it until pictures burn, and CLIPs differ in what is high.

    Raises:
        ValueError: see `paired`.
    """
    images, captions = paired(z_i, z_t, "images", "captions")
    return mean(100 * (images * captions).sum(dim=1))


def _apart(rows: Tensor) -> tuple[float, Tensor]:
    """The mean of 1 - cosine over pairs of unit rows (N, D), and each one's influence (N,)."""
    n = len(rows)
    total = rows.sum(dim=0)
    cosines = rows @ total - 1  # of each with all the others
    value = 1 - float(cosines.sum()) / (n * (n - 1))
    if n < 3:
        return value, torch.full_like(cosines, torch.nan)
    without = 1 - (cosines.sum() - 2 * cosines) / ((n - 1) * (n - 2))
    return value, (n - 1) * (value - without)
