"""Distances and neighbours of generated images among real ones, as numbers and plots of a report.

Shapes: N images, D width of features.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from unclip.evaluation.features.extractor import Extractor
from unclip.evaluation.intervals import Estimate
from unclip.evaluation.metrics.frechet import SHARES, Extrapolation, extrapolated, fid
from unclip.evaluation.metrics.mmd import cmmd, kid
from unclip.evaluation.metrics.neighbours import K, prdc
from unclip.evaluation.metrics.spread import diversity
from unclip.evaluation.report import Conditions, Plot, Report, Series

GENERATED, REAL = "generated images", "real images of the same captions"
OTHERS = "real images that they are held against"
APART = "mean distance of two images (1 - cosine)"
_KID_UNIT: Final = 1000.0  # as papers print it
CMMD_OF: Final = "z_i"
"""The layer of extractors whose features CMMD has a meaning for: CLIP's embeddings."""


@dataclass(frozen=True)
class Seen:
    """Features of one extractor.

    Attributes:
        extractor: whose they are.
        made: of generated images (N, D).
        others: of the real images that they are held against (M, D).
        own: of the real images of the captions (N, D), where these are others than `others`.
    """

    extractor: Extractor
    made: Tensor
    others: Tensor
    own: Tensor | None = None

    def sides(self) -> dict[str, Tensor]:
        """What is held against `others`: the generated images, and what a perfect model gets."""
        real = {} if self.own is None else {REAL: self.own}
        return {GENERATED: self.made, **real}


def distances(seen: Seen, under: Conditions, report: Report) -> dict[str, dict[str, Estimate]]:
    """FID with its extrapolation, KID and, of CLIP's features, CMMD, into the report.

    Returns:
        "generated images" and "real images …" → the numbers by name.
    """
    under = under.by(seen.extractor)
    found, lines = {}, []
    for of, features in seen.sides().items():
        numbers = {"FID": fid(features, seen.others)}
        if min(len(features), len(seen.others)) >= 2 * max(SHARES):
            line = extrapolated(features, seen.others)
            numbers["FID, extrapolated"] = line.limit
            lines.append(_line(of, line))
        numbers["KID × 1000"] = kid(features, seen.others).scaled(_KID_UNIT)
        if of_clip(seen.extractor):
            numbers["CMMD"] = cmmd(features, seen.others)
        report.add(under, of, numbers, "lower")
        found[of] = numbers
    if lines:
        report.plots.append(
            Plot(f"FID by the number of images ({seen.extractor.name})",
                 "1 / images on either side; 0 is infinitely many", "FID", lines)
        )  # fmt: skip
    return found


def of_clip(extractor: Extractor) -> bool:
    """Whether features are embeddings of a CLIP."""
    return getattr(extractor, "layer", "") == CMMD_OF


def neighbours(
    seen: Seen, under: Conditions, report: Report, k: int | None = None
) -> dict[str, dict[str, Estimate]]:
    """Precision, recall, density and coverage, into the report.

    Args:
        k: of the balls; if left out, 5, or less of few images.

    Raises:
        ValueError: there are not more images than k.
    """
    under = under.by(seen.extractor)
    fewest = min(map(len, (*seen.sides().values(), seen.others)))
    k = min(K, max(1, fewest - 1)) if k is None else k
    found = {}
    for of, features in seen.sides().items():
        one = prdc(seen.others, features, k).estimates()
        found[of] = {f"{name} (k = {k})": estimate for name, estimate in one.items()}
        report.add(under, of, found[of], "higher")
    return found


def spread(seen: Seen, under: Conditions, report: Report) -> dict[str, Estimate]:
    """The mean distance of two images, into the report: of generated ones, and of real ones."""
    under = under.by(seen.extractor)
    found = {GENERATED: diversity(seen.made), OTHERS: diversity(seen.others)}
    for of, one in found.items():
        report.add(under, of, {APART: one})
    return found


def by_number(title: str, y: str, found: Mapping[str, Mapping[str, Estimate]]) -> Plot:
    """A plot with a line for each number: what it is of → its name → the number."""
    return Plot(title, "", y, [
        Series(of, list(numbers), list(numbers.values())) for of, numbers in found.items()
    ])  # fmt: skip


def _line(of: str, line: Extrapolation) -> Series:
    places = [0.0, *(1 / n for n in sorted(line.at, reverse=True))]
    values = [line.at[n] for n in sorted(line.at, reverse=True)]
    return Series(of, places, [line.limit, *(Estimate(v, math.nan, math.nan) for v in values)])
