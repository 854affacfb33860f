"""What guidance trades: numbers by its scale, as the paper's figures 8 to 10 and 3.2 have them.

Higher scales make images that suit their captions better and are less diverse; where FID is lowest
is neither end.

Shapes: N images, D width of features.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor

from unclip.evaluation.intervals import Estimate
from unclip.evaluation.metrics.aesthetic import Probe
from unclip.evaluation.metrics.retrieval import KS
from unclip.evaluation.report import Conditions, Plot, Report, Series
from unclip.evaluation.studies.agreement import agreement
from unclip.evaluation.studies.quality import GENERATED, Seen, distances, neighbours

AESTHETIC: Final = "aesthetic score"


def by_scale(
    scale: float, seen: Seen, z_t: Tensor | None, captions: Sequence[str], under: Conditions,
    report: Report, probe: Probe | None = None,
) -> dict[str, Estimate]:  # fmt: skip
    """All numbers at one scale, into the report.

    Args:
        z_t: of the captions (N, D), where the features are embeddings of the same CLIP.
        probe: of aesthetic scores, where there is one.
    """
    one = Report("")
    numbers = {**distances(seen, under, one)[GENERATED]}
    numbers |= neighbours(seen, under, one)[GENERATED]
    if z_t is not None:
        numbers |= agreement(seen.made, z_t, captions, under.by(seen.extractor), GENERATED, one)
    if probe is not None:
        rated = {AESTHETIC: probe.score(seen.made)}
        one.add(under.by(seen.extractor), GENERATED, rated, "higher")
        numbers |= rated
    for number in one.numbers:
        if number.of == GENERATED:
            report.add(
                number.under, f"scale {scale:g}", {number.metric: number.found}, number.better
            )
    return numbers


def plots(name: str, found: Mapping[float, Mapping[str, Estimate]]) -> list[Plot]:
    """A plot of each number by the scale.

    Args:
        name: of the extractor.
        found: scale → the numbers at it.
    """
    scales = sorted(found)
    return [
        Plot(
            f"{metric} by guidance scale ({name})", "guidance scale", metric,
            [Series("", scales, [found[s][metric] for s in scales])],
        )
        for metric in _drawn(found)
    ]  # fmt: skip


def table(name: str, found: Mapping[float, Mapping[str, Estimate]]) -> list[tuple[str, ...]]:
    """A row for each number, a column for each scale."""
    scales = sorted(found)
    rows: list[tuple[str, ...]] = [(f"by {name}", *(f"scale {scale:g}" for scale in scales))]
    return rows + [
        (metric, *(_brief(found[scale][metric]) for scale in scales)) for metric in _drawn(found)
    ]


def tradeoff(name: str, found: Mapping[float, Mapping[str, Estimate]], x: str, y: str) -> Plot:
    """One number against another, a point for each scale, as figure 9 has it."""
    scales = sorted(found, key=lambda scale: found[scale][x].value)
    return Plot(f"{y} against {x} by guidance scale ({name})", x, y, [
        Series("", [found[s][x].value for s in scales], [found[s][y] for s in scales])
    ])  # fmt: skip


def _brief(found: Estimate) -> str:
    """The number and its interval, which need not be even on both sides."""
    if math.isnan(found.high - found.low):
        return f"{found.value:.3g}"
    return f"{found.value:.3g} ({found.low:.3g} to {found.high:.3g})"


def _drawn(found: Mapping[float, Mapping[str, Estimate]]) -> list[str]:
    """The numbers that there are at every scale; of recall only that of the first."""
    ends = tuple(f"first {k}" for k in KS[1:])
    first, *others = found.values()
    return [
        one for one in first if all(one in other for other in others) and not one.endswith(ends)
    ]
