"""What an evaluation found: numbers with all that they were measured under, plots and pictures.

Figures of different papers can seldom be compared, as one of count, reference split, filter, crop,
colour rounding or extractor differs and is not said. Here a number carries them: `Conditions`.

Shapes: C columns of a sheet, H × W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from torch import Tensor

from unclip.data.captions import ENDLESS, counted
from unclip.data.captions import Report as Listed
from unclip.evaluation.features.extractor import Extractor
from unclip.evaluation.intervals import Estimate, Rate

COLOURS: Final = "8 bits a channel, rounded to nearest and clamped, before features are taken"
_CENTRE: Final = "shorter side scaled to {size} px (antialiased), the middle cut out"
_DRAWN: Final = "none: scenes are drawn at {size} px"


@dataclass(frozen=True)
class Conditions:
    """What a number was measured under.

    Attributes:
        images: how many were generated, or looked at.
        reference: what they are held against.
        references: how many of those there are.
        split: of the data.
        filter: which of the data's images were left out.
        crop: how real images became squares.
        made: pixels a side of generated images; 0 where none are made.
        colours: how they were rounded.
        extractor, extractor_hash, extractor_size: what features are of; "" and 0 of none.
    """

    images: int
    reference: str
    references: int
    split: str
    filter: str
    crop: str
    made: int = 0
    colours: str = COLOURS
    extractor: str = ""
    extractor_hash: str = ""
    extractor_size: int = 0

    def by(self, extractor: Extractor) -> "Conditions":
        """The same of features."""
        return replace(
            self, extractor=extractor.name, extractor_hash=extractor.hash,
            extractor_size=extractor.size,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value not in ("", 0)}


def crop_of(size: int, drawn: bool) -> str:
    """How real images became squares; `drawn` ones are."""
    return (_DRAWN if drawn else _CENTRE).format(size=size)


def filter_of(report: Listed | str) -> str:
    """Which images of the data were left out, and which were used in spite of something; of a
    source that says what it is in a sentence of its own, that."""
    if isinstance(report, str):
        return report
    if report.parts:
        return "; ".join(filter_of(part) for part in report.parts)
    if report.images >= ENDLESS or not (report.problems or report.notes):
        return "none"
    said = [f"left out: {line}" for line in counted(report.problems)]
    said += [f"used: {line}" for line in counted(report.notes)]
    return "; ".join(said)


@dataclass(frozen=True)
class Number:
    """A result.

    Attributes:
        metric: such as "FID".
        of: what it is of: "generated", "real".
        found: the number and its interval.
        under: what it was measured under.
        better: which way is better, if one is.
    """

    metric: str
    of: str
    found: Estimate
    under: Conditions
    better: Literal["lower", "higher", ""] = ""

    def to_dict(self) -> dict[str, Any]:
        named = {"metric": self.metric, "of": self.of, "better": self.better}
        return {**named, **self.found.to_dict(), "under": self.under.to_dict()}


def estimate_of(rate: Rate) -> Estimate:
    """A rate as a number with its interval."""
    return Estimate(rate.accuracy, *rate.interval)


@dataclass(frozen=True)
class Series:
    """Points of a plot: places, which are words or numbers, and what was found there."""

    name: str
    places: Sequence[str] | Sequence[float]
    found: Sequence[Estimate]

    def to_dict(self) -> dict[str, Any]:
        points = [{"at": at, **one.to_dict()} for at, one in
                  zip(self.places, self.found, strict=True)]  # fmt: skip
        return {"name": self.name, "points": points}


@dataclass(frozen=True)
class Plot:
    """A plot: its title, what its axes are, and what is drawn."""

    title: str
    x: str
    y: str
    series: Sequence[Series]

    def to_dict(self) -> dict[str, Any]:
        series = [one.to_dict() for one in self.series]
        return {"title": self.title, "x": self.x, "y": self.y, "series": series}


@dataclass(frozen=True)
class Sheet:
    """Pictures in rows.

    Attributes:
        title: what they show.
        columns: what each picture of a row is (C,).
        rows: a caption, and its pictures (3, H, W) uint8.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Tensor]]]


@dataclass
class Report:
    """All that an evaluation found.

    Attributes:
        title: what was evaluated.
        about: model, data, flags, versions; and what JSON files of older versions hold.
        numbers, plots, sheets: see there.
        notes: sentences that a reader of the numbers must know.
    """

    title: str
    about: dict[str, Any] = field(default_factory=dict)
    numbers: list[Number] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        under: Conditions,
        of: str,
        found: Mapping[str, Estimate],
        better: Literal["lower", "higher", ""] = "",
    ) -> None:
        """Numbers by metric, that were measured under the same conditions."""
        self.numbers += [Number(name, of, one, under, better) for name, one in found.items()]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; pictures are left out."""
        return {
            **self.about,
            "numbers": [one.to_dict() for one in self.numbers],
            "plots": [one.to_dict() for one in self.plots],
            "notes": self.notes,
        }

    def rows(self) -> list[tuple[str, ...]]:
        """The numbers as a table: metric, what it is of, the number and its interval, extractor."""
        rows: list[tuple[str, ...]] = [("metric", "of", "value (95 % interval)", "better", "by")]
        for one in self.numbers:
            by = one.under.extractor or "pixels"
            rows.append((one.metric, one.of, shown(one.found), one.better or "-", by))
        return rows


def shown(found: Estimate) -> str:
    """The number and its interval, where there is one."""
    if found.low != found.low:
        return f"{found.value:.4g} (no interval)"
    return str(found)
