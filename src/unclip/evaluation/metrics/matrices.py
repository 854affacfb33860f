"""Matrices of features as metrics take them: (N, D), a row for each image.

Every metric refuses the same things in the same words.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.checks import many, of_kind

LARGEST: Final = 1e12
"""Beyond it kernels and products of features leave fp64, or all of its digits."""
ROWS = 1024  # of a block of distances or kernels: 8 MB for each thousand columns in fp64


def checked(features: Tensor, name: str = "the features", least: int = 2) -> Tensor:
    """A matrix (N, D) in fp64 where it lies.

    Raises:
        ValueError: it is none, has fewer than `least` rows, or values that are not finite.
    """
    of_kind(features, Tensor, name, "a tensor (N, D)")
    if features.layout != torch.strided or features.is_meta:
        raise ValueError(f"{name} are a sparse tensor, or one without values; give a dense one")
    if features.ndim != 2 or not features.shape[1] or not features.is_floating_point():
        raise ValueError(
            f"{name} have the shape {tuple(features.shape)} and hold {features.dtype}; "
            "give floats (N, D), a row for each image"
        )
    if len(features) < least:
        raise ValueError(f"{name} are of {many(len(features), 'images')}; it takes {least} or more")
    if not features.isfinite().all():
        bad = int((~features.isfinite()).any(dim=1).sum())
        raise ValueError(f"{name} of {many(bad, 'images')} have values that are not finite")
    features = features.detach().double()
    if float(features.abs().max()) > LARGEST:
        raise ValueError(f"{name} have values beyond {LARGEST:g}: no network gives such")
    return features


def directions(features: Tensor, name: str = "the features", least: int = 2) -> Tensor:
    """The rows of a matrix (N, D) at unit length, in fp64.

    Raises:
        ValueError: see `checked`; or a row of zeros.
    """
    rows = checked(features, name, least)
    largest = rows.abs().amax(dim=1, keepdim=True)
    if not largest.all():
        raise ValueError(f"{name} hold rows that are all 0, which have no direction")
    tiny = largest < 1e-100  # whose squares fp64 does not hold
    return F.normalize(rows / largest.where(tiny, torch.ones_like(largest)), dim=1, eps=1e-300)


def paired(a: Tensor, b: Tensor, first: str, second: str) -> tuple[Tensor, Tensor]:
    """The directions of two matrices (N, D) whose i-th rows belong together.

    Raises:
        ValueError: see `directions`; or their shapes differ.
    """
    ours, theirs = directions(a, first, least=1), directions(b, second, least=1)
    if ours.shape != theirs.shape:
        raise ValueError(
            f"{first} {tuple(ours.shape)} and {second} {tuple(theirs.shape)} do not pair up; give "
            "one embedding of each, from one CLIP"
        )
    return ours, theirs


def compared(a: Tensor, b: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    """Two matrices (N, D) and (M, D) of one extractor, in fp64.

    Raises:
        ValueError: see `checked`; their widths differ, or both are the same images.
    """
    a, b = checked(a, "the first features", least), checked(b, "the second features", least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features of width {a.shape[1]} and {b.shape[1]} cannot be compared; take one "
            "extractor for both"
        )
    if a.shape == b.shape and _same_rows(a, b):
        raise ValueError("both sets are the same images: what is measured is a set against others")
    return a, b


def _same_rows(a: Tensor, b: Tensor) -> bool:
    """Whether both have the same rows, in any order."""
    direction = torch.randn(
        a.shape[1], dtype=a.dtype, generator=torch.Generator().manual_seed(0)
    ).to(a.device)
    ours, theirs = (rows @ direction for rows in (a, b))
    return torch.allclose(ours.sort().values, theirs.sort().values, rtol=1e-12, atol=1e-12)
