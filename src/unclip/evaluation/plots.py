"""Plots of reports as SVG, by matplotlib; nothing of its global state is used."""

import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from unclip.evaluation.report import Plot, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _LINE, _LEAST = 7.0, 0.34, 1.4  # inches
_FONT: Final[Any] = {
    "svg.hashsalt": "unclip",
    "svg.fonttype": "none",
    "font.size": 9,
    "text.parse_math": False,
}


def check_plots() -> None:
    """Refuse, before any work, a report on a machine that cannot draw its plots.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError(
            "an HTML report needs matplotlib: pip install 'unclip[report]'; the .json file of "
            "--output needs nothing"
        ) from None


def svg(plot: Plot) -> str:
    """The plot as an SVG document, the same for the same numbers."""
    import matplotlib
    from matplotlib.figure import Figure

    named = _named(plot)
    with matplotlib.rc_context(_FONT), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing", UserWarning
        )  # the reader's font has it
        lines = sum(len(one.places) for one in plot.series)
        height = _LEAST + _LINE * lines if named else 3.6
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        (_named_points if named else _curves)(axes, plot)
        axes.set_title(plot.title)
        axes.grid(alpha=0.3)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        out = BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue().decode()
    return text[text.index("<svg") :]


def _named(plot: Plot) -> bool:
    return any(isinstance(place, str) for one in plot.series for place in one.places)


def _bars(series: Series) -> tuple[list[float], list[list[float]]]:
    """Values, and how far their intervals reach below and above; 0 where there is none."""
    values = [one.value for one in series.found]
    reach = [[one.value - one.low for one in series.found],
             [one.high - one.value for one in series.found]]  # fmt: skip
    return values, [[max(0.0, x) if x == x else 0.0 for x in side] for side in reach]


def _named_points(axes: "Axes", plot: Plot) -> None:
    """A line of its own for each name, the first at the top, with its interval."""
    labels: list[str] = []
    for series in plot.series:
        values, reach = _bars(series)
        rows = [float(len(labels) + k) for k in range(len(values))]
        labels += [f"{place}, {series.name}" if series.name else str(place)
                   for place in series.places]  # fmt: skip
        style: dict[str, Any] = {"fmt": "o", "capsize": 3, "markersize": 5}
        axes.errorbar(values, rows, xerr=reach, **style)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(plot.y)


def _curves(axes: "Axes", plot: Plot) -> None:
    for series in plot.series:
        values, reach = _bars(series)
        places = [float(place) for place in series.places]
        axes.errorbar(places, values, yerr=reach, fmt="o-", capsize=3, label=series.name)
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    if len(plot.series) > 1:
        axes.legend()
