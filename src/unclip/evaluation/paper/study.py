"""What a study of the paper is, and how one is run: row by row, each on the disk when it is there.

A study is a list of cells. A cell is a row of its table: how images are made, and the function that
makes and measures them. Rows that are in the study's file are not made again, so that a run that
was killed goes on; a file of another run is refused.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from unclip.checks import printable
from unclip.evaluation.intervals import Estimate, Rate
from unclip.files import read_json, write_json

if TYPE_CHECKING:
    from unclip.evaluation.paper.lab import Ask, Lab

Values = Mapping[str, Any]
"""By name: a `Rate`, an `Estimate`, a number, a mapping of these, or a `Future` of one."""
Row = dict[str, Any]
"""{"setting": …, "values": {name: {"value", "interval", …}}}."""
_FREE: Final = ("date", "machine", "commit")  # what may differ between two runs of a file


@dataclass(frozen=True)
class Cell:
    """A row that is to be measured.

    Args:
        setting: what tells it from the others, by column.
        measure: makes and measures.
        asks: the images that it makes, for counting.
        others: evaluations of networks beside those, for counting.
    """

    setting: Mapping[str, Any]
    measure: Callable[[], Values]
    asks: Sequence["Ask"] = ()
    others: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{key} {value}" for key, value in self.setting.items())


@dataclass(frozen=True)
class Study:
    """A table of the paper.

    Args:
        letter: that of the issue's list, which files begin with.
        name: of its file.
        title, question: of the table, and what is measured, in words.
        paper: what the paper says, and where.
        columns: the values that the table shows, in order.
        cells: the rows for a lab; nothing is computed yet.
        verdict: measured rows → where the world agrees with the paper, where not, and why.
    """

    letter: str
    name: str
    title: str
    question: str
    paper: str
    columns: Sequence[str]
    cells: Callable[["Lab"], list[Cell]]
    verdict: Callable[[Sequence[Row]], str]

    @property
    def file(self) -> str:
        return f"{self.letter}-{self.name}.json"


def run(
    study: Study,
    lab: "Lab",
    folder: Path,
    say: Callable[[str], Any] = print,
    enough: Callable[[], bool] = lambda: False,
) -> list[Row]:
    """Measure what is missing of a study, and write it to its file in `folder`; its rows.

    A row that cannot be measured is said and left out; the next run tries it again.

    Args:
        say: is told of each row.
        enough: asked before each row whether to stop there.

    Raises:
        ValueError: the file holds rows of another run, or is none of a study's.
    """
    cells = study.cells(lab)
    about = {"study": study.name, "letter": study.letter, "made_with": lab.facts()}
    table = _Table(folder / study.file, about, [dict(cell.setting) for cell in cells])
    waiting: list[tuple[Cell, Values]] = []

    def collect(wait: bool) -> None:
        for one in [*waiting]:
            if wait or all(value.done() for value in _futures(one[1])):
                waiting.remove(one)
                with _left_out(one[0], say):
                    table.add(one[0], plain(one[1]))

    for cell in cells:
        if table.has(cell) or enough():
            continue
        began = time.perf_counter()
        with _left_out(cell, say):
            waiting.append((cell, cell.measure()))
            say(f"({study.letter}) {cell}: {time.perf_counter() - began:.1f} s")
        collect(wait=False)
    collect(wait=True)
    return table.rows


@contextmanager
def _left_out(cell: Cell, say: Callable[[str], Any]) -> Iterator[None]:
    """Say what keeps a row from being measured, and go on."""
    try:
        yield
    except (ValueError, torch.OutOfMemoryError) as error:
        say(f"{cell} is left out: {printable(str(error))}")


class _Table:
    """A study's file.

    Raises:
        ValueError: it holds rows of another run, or is none of a study's.
    """

    def __init__(self, file: Path, about: Mapping[str, Any], order: Sequence[Any]) -> None:
        self.file, self.order = file, order
        self.about = json.loads(json.dumps(about))  # as a file gives it back
        self.rows: list[Row] = []
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            return
        found = read_json(file)
        facts, ours = found.get("made_with", {}), self.about["made_with"]
        for key in ("study", *(key for key in ours if key not in _FREE)):
            noted, wanted = ((found.get(key), self.about[key]) if key == "study" else
                             (facts.get(key), ours[key]))  # fmt: skip
            if noted != wanted:
                raise ValueError(
                    f"{printable(str(file))} is of another run, whose {key} is not this one's: "
                    "name another folder, or remove the file"
                )
        self.rows = list(found["rows"])

    def has(self, cell: Cell) -> bool:
        return any(row["setting"] == dict(cell.setting) for row in self.rows)

    def add(self, cell: Cell, values: Mapping[str, Any]) -> None:
        """A row, written at once."""
        self.rows.append({"setting": dict(cell.setting), "values": values})
        known = [row for row in self.rows if row["setting"] in self.order]
        others = [row for row in self.rows if row["setting"] not in self.order]
        self.rows = sorted(known, key=lambda row: self.order.index(row["setting"])) + others
        write_json(self.file, {**self.about, "rows": self.rows})


def plain(values: Values) -> dict[str, Any]:
    """Values as JSON has them, mappings of them joined by a space: "clip fid"."""
    found: dict[str, Any] = {}
    for name, given in values.items():
        value = given.result() if isinstance(given, Future) else given
        if isinstance(value, Mapping):
            found |= {f"{name} {key}": inner for key, inner in plain(value).items()}
        elif isinstance(value, Rate):
            low, high = value.interval
            found[name] = {
                "value": value.accuracy if value.total else None,
                "interval": [low, high],
                "count": value.total,
            }
        elif isinstance(value, Estimate):
            found[name] = value.to_dict()
        else:
            found[name] = {"value": value}
    return found


def _futures(values: Values) -> Iterator["Future[Any]"]:
    return (value for value in values.values() if isinstance(value, Future))


# ---- for verdicts --------------------------------------------------------------------------------


def having(rows: Sequence[Row], **setting: Any) -> list[Row]:
    """The rows with these settings."""
    return [row for row in rows if setting.items() <= row["setting"].items()]


def number(row: Row, name: str) -> float:
    """A value of a row; NaN where there was nothing to measure."""
    value = row["values"].get(name, {}).get("value")
    return float("nan") if value is None else float(value)


def bounds(row: Row, name: str) -> tuple[float, float]:
    """Its 95 % interval; without one, the value twice."""
    value = number(row, name)
    low, high = row["values"].get(name, {}).get("interval") or (None, None)
    return value if low is None else low, value if high is None else high


def apart(one: Row, other: Row, name: str) -> bool:
    """Whether the intervals of two rows do not meet."""
    (low, high), (least, most) = bounds(one, name), bounds(other, name)
    return low > most or least > high


def best(rows: Sequence[Row], name: str, most: bool = True) -> Row:
    """The row with the most, or the least, of a value."""
    known = [row for row in rows if number(row, name) == number(row, name)]
    return (max if most else min)(known or rows, key=lambda row: number(row, name))


def said(row: Row, name: str, percent: bool = False) -> str:
    """A value in words, with its interval."""
    low, high = bounds(row, name)
    if percent:
        return f"{number(row, name):.1%} ({low:.1%} to {high:.1%})"
    return f"{number(row, name):.3g} ({low:.3g} to {high:.3g})"
