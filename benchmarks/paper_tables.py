"""docs/paper_tables.md and its plots, from the results of benchmarks/paper.py.

python benchmarks/paper_tables.py [--results benchmarks/results/paper] [--docs docs]
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

from unclip.evaluation.paper.catalogue import STUDIES
from unclip.evaluation.paper.study import Row, Study, bounds, number

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "paper"
PAGE = "paper_tables.md"
_INTRODUCTION = """# The paper's tables, on the built-in world

What the paper measures on MS-COCO and by people's eyes is measured here on scenes of the built-in
world that training holds out, where a judge knows the truth. Each table says what it asks, what
the paper says, and where the world agrees with it. Numbers have 95 % intervals in brackets:
Wilson's for rates, the jackknife's for distances ([evaluation.md](evaluation.md)). "clip" are the
embeddings of the model's own CLIP, which unCLIP's decoder draws for, so that they favour it over
GLIDE; "judge" are features of the judge, which knows no CLIP. FID and its like are lower where
better, and to the same real images in all rows of a run; they are not to be compared with figures
of other extractors, nor with those of another number of images.

`make paper` measures all of it and writes this page: `python benchmarks/paper.py --models DIR`,
then `python benchmarks/paper_tables.py`. It goes on where it was killed. DIR holds a folder for
each model; without it the bundled model is measured alone:

| folder of DIR | how it is made |
|---|---|
| `bundled` | the bundled model, or another one like it |
| `glide` | `unclip borrow clip`, then `unclip train decoder` with `recipes/bundled-glide.toml` |
| `text-embedding` | the same with `recipes/bundled-text-embedding.toml` |
| `ar-prior` | the same with `unclip train ar-prior` and `recipes/bundled-ar-prior.toml` |

All decoders share the upsampler of `bundled`. GLIDE here is the same U-Net, trained as long on
captions alone. What a table does not name is sampled as the folder of `bundled` says, in all
models alike.
"""
_PERCENT = ("object", "colour", "background", "relation", "binding", "exact", "right", "all",
            "kept", "changed", "success", "real ones", "other backgrounds", "first", "second",
            "neither", "is there", "explained")  # fmt: skip
_AXES = {"value": "η or θ"}
_COLOURS = ("#3182bd", "#e6550d", "#31a354", "#756bb1", "#636363", "#d6a50b")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    images = options.docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    found = {study.letter: json.loads(file.read_text()) for study in STUDIES.values()
             if (file := options.results / study.file).is_file()}  # fmt: skip
    parts = [_INTRODUCTION, _made_with(list(found.values()))]
    for letter, study in sorted(STUDIES.items()):
        rows = found[letter]["rows"] if letter in found else []
        parts.append(section(study, rows, plot(study, rows, images)))
    (options.docs / PAGE).write_text("\n".join(parts))
    print(options.docs / PAGE)


def _fewer(facts: dict[str, Any]) -> str:
    """Steps of the decoder that are not the preset's."""
    steps = facts.get("decoder_steps")
    return f", {steps} of the decoder" if steps else ""


def _made_with(results: Sequence[dict[str, Any]]) -> str:
    """What all of them were measured with, in a paragraph."""
    if not results:
        return "Nothing is measured yet.\n"
    told = []
    for made in dict.fromkeys(json.dumps(one["made_with"], sort_keys=True) for one in results):
        facts = json.loads(made)
        machine = facts["machine"]
        where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
        models = ", ".join(f"{name} `{print_}`" for name, print_ in facts["models"].items())
        extractors = ", ".join(f"{name} `{hash_}`" for name, hash_ in facts["extractors"].items())
        line = (
            f"n = {facts['n']:,}, {facts['size']} px, steps {facts['steps']}{_fewer(facts)}, "
            f"seed {facts['seed']}, batches of {facts['batch']}, {facts['precision']}, "
            f"torch {facts['torch']}, {where}, {facts['date'][:10]}, "
            f"commit {facts['commit'] or 'unknown'}; reference: {facts['reference']}, "
            "drawn by the world; colours in whole bytes, no filter, no crop; models by "
            f"fingerprint: {models}; extractors by hash: {extractors}."
        )
        told.append(line)
    same = list(dict.fromkeys(told))
    return "**Measured with** " + (" Others with ".join(same)) + "\n"


def section(study: Study, rows: Sequence[Row], picture: str) -> str:
    """A study's title, question, answer and table."""
    columns = [name for name in study.columns
               if any(name in row["values"] for row in rows)]  # fmt: skip
    settings = list(rows[0]["setting"]) if rows else []
    lines = [
        f"## ({study.letter}) {study.title}\n",
        *([f"**What was found.** {study.verdict(rows)}\n"] if rows else []),
        f"**What is measured.** {study.question}\n",
        f"**What the paper says.** {study.paper}\n",
        *([f"![{study.title}](images/{picture})\n"] if picture else []),
    ]
    if not rows:
        return "\n".join([*lines, "Not measured yet.\n"])
    lines.append("| " + " | ".join([*settings, *columns]) + " |")
    lines.append("|" + "---|" * len(settings) + "---:|" * len(columns))
    for row in rows:
        shown = ["–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
                 for value in row["setting"].values()]  # fmt: skip
        lines.append("| " + " | ".join([*shown, *(cell(row, name) for name in columns)]) + " |")
    return "\n".join(lines) + "\n"


def cell(row: Row, name: str) -> str:
    """A value with its interval."""
    value = number(row, name)
    if value != value:
        return ""
    low, high = known(row, name)
    if f" {name}".endswith(tuple(f" {one}" for one in _PERCENT)):
        whole = f"{100 * value:.1f} %"
        return whole if low == high else f"{whole} ({100 * low:.1f}–{100 * high:.1f})"
    whole = f"{value:.3g}"
    return whole if low == high else f"{whole} ({low:.3g}–{high:.3g})"


def known(row: Row, name: str) -> tuple[float, float]:
    """A value's interval; the value itself where a share's is all from 0 to 1: nothing is known."""
    value, (low, high) = number(row, name), bounds(row, name)
    return (value, value) if 0 <= value <= 1 and low <= 0 and high >= 1 else (low, high)


# ---- plots ---------------------------------------------------------------------------------------


def plot(study: Study, rows: Sequence[Row], folder: Path) -> str:
    """Draw what can be drawn of a study; the picture's name, "" if there is none."""
    drawn = PLOTS.get(study.letter)
    if drawn is None or len(rows) < 2:
        return ""
    by, along, names = drawn
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.7 * len(names), 3.1), squeeze=False)
    for axis, (x, y) in zip(axes[0], names, strict=True):
        for k, group in enumerate(_groups(rows, by)):
            some = [row for row in rows if row["setting"].get(by) == group]
            _curve(
                axis, some, x or along, y, str(group or study.title), _COLOURS[k % len(_COLOURS)]
            )
        axis.set(xlabel=x or _AXES.get(along, along), ylabel=y)
        axis.spines[["top", "right"]].set_visible(False)
    named: dict[str, Any] = {}
    for axis in axes[0]:
        named |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(
        list(named.values()), list(named), loc="lower center", ncols=4, frameon=False, fontsize=8
    )
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    name = f"paper-{study.name}.png"
    figure.savefig(folder / name, dpi=110)
    pyplot.close(figure)
    return name


def _groups(rows: Sequence[Row], by: str) -> list[Any]:
    return list(dict.fromkeys(row["setting"].get(by) for row in rows))


def _curve(axis: Any, rows: Sequence[Row], x: str, y: str, label: str, colour: str) -> None:
    """One curve with intervals; a row without a place on the axis is a line across it."""
    points = []
    for row in rows:
        place = row["setting"].get(x) if x in row["setting"] else number(row, x)
        value = number(row, y)
        if value != value:
            continue
        if place is None or place != place:
            axis.axhline(value, color=colour, linestyle=":", linewidth=1, label=label)
            continue
        points.append((place, value, *known(row, y)))
    if not points:
        return
    if x in rows[0]["setting"]:
        points.sort()
    places, values, lows, highs = zip(*points, strict=True)
    reach = [[max(0, v - low) for v, low in zip(values, lows, strict=True)],
             [max(0, high - v) for v, high in zip(values, highs, strict=True)]]  # fmt: skip
    axis.errorbar(places, values, reach, marker="o", markersize=3, linewidth=1.2, color=colour,
                  elinewidth=0.7, label=label)  # fmt: skip


PLOTS: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "a": ("condition", "guidance", [("", "exact"), ("", "judge fid"), ("", "clip fid")]),
    "b": ("prior", "dot product from", [("", "exact"), ("", "judge fid")]),
    "c": ("model", "guidance",
          [("", "judge fid"), ("", "judge recall"), ("", "judge coverage"), ("", "aesthetic")]),
    "d": ("model", "guidance",
          [("", "judge diversity"), ("", "kept"), ("exact", "judge diversity")]),
    "f": ("", "components", [("", "object"), ("", "colour"), ("", "background")]),
    "h": ("prior", "candidates", [("", "exact"), ("", "judge fid"), ("", "judge recall")]),
    "e": ("manipulation", "value",
          [("", "all"), ("", "object of the first"), ("", "object success"),
           ("", "colour success"), ("", "background success")]),
}  # fmt: skip
"""By letter: what tells curves apart, the axis, and (another axis or "", value) of each plot."""


if __name__ == "__main__":
    main()
