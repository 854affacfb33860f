"""Plots of the newest measurements on this machine: docs/images/speed.png, approximations.png.

python benchmarks/plot.py [--size full] [--out docs/images]

Reads benchmarks/results/results.jsonl, where `make bench-prior` and its like, and `make
bench-approximations`, put what they measure; a plot whose measurements are missing is left out.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

from common import RESULTS, ROOT
from unclip.pipeline.settings import PRESETS

Row = dict[str, Any]
PARTS = ("prior", "decoder", "upsampler")
BARS = {  # (precision, whose): name, colour
    ("fp32", "theirs"): ("diffusers, fp32 (its default)", "#b8b8b8"),
    ("bf16", "theirs"): ("diffusers, bf16", "#8a8a8a"),
    ("fp32", "ours"): ("unclip, fp32", "#9ecae1"),
    ("bf16", "ours"): ("unclip, bf16", "#3182bd"),
    ("bf16", "int8"): ("unclip, int8 (an approximation)", "#e6550d"),
}


def measured(**wanted: Any) -> list[Row]:
    """Measurements with these values, the newest last."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [row for row in map(json.loads, lines) if wanted.items() <= row.items()]


def caption(row: Row) -> str:
    machine = row["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    return f"{where}, {row['date'][:10]}"


def speed(size: str, file: Path) -> bool:
    """How many times as fast as diffusers' default each part is, one sample at a time."""
    found = {
        part: rows[-1]
        for part in PARTS
        if (rows := measured(part=part, size=size)) and rows[-1]["rows"][0]["precision"] == "fp32"
    }
    if not found:
        return False
    figure, axes = pyplot.subplots(1, len(found), figsize=(3.6 * len(found), 3), squeeze=False)
    for axis, (part, newest) in zip(axes[0], found.items(), strict=True):
        rows = {row["precision"]: row for row in reversed(newest["rows"])}  # the first batch size
        bars = {
            bar: rows["fp32"]["theirs"] / rows[bar[0]][bar[1]]
            for bar in BARS
            if bar[1] in rows.get(bar[0], ())
        }
        names, colours = zip(*(BARS[bar] for bar in bars), strict=True)
        drawn = axis.bar(range(len(bars)), list(bars.values()), color=colours, label=names)
        axis.bar_label(drawn, fmt="%.1f", fontsize=8)
        axis.set(title=part, xticks=[])
        axis.margins(y=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("times as fast")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(f"Steps of one sample, {size} size: {caption(newest)}", fontsize=9)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(file, dpi=110)
    return True


def approximations(file: Path) -> bool:
    """Scenes that are exactly right, of variants in the order of their cost, for each size.

    Variants that were measured by themselves join those that saw the same scenes.
    """
    found = {row["size"]: row for row in measured(part="approximations")}
    if not found:
        return False
    same = ("size", "n", "seed", "model", "precision")
    for size, newest in found.items():
        rows = {
            row["variant"]: row
            for run in measured(part="approximations")
            if all(run[key] == newest[key] for key in same)
            for row in run["rows"]
        }
        found[size] = {**newest, "rows": list(rows.values())}
    tallest = max(len(newest["rows"]) for newest in found.values())
    figure, axes = pyplot.subplots(
        1, len(found), figsize=(6 * len(found), 1 + 0.22 * tallest), squeeze=False
    )
    for axis, (size, newest) in zip(axes[0], sorted(found.items()), strict=True):
        rows = sorted(newest["rows"], key=lambda row: row["operations"], reverse=True)
        for place, row in enumerate(rows):
            exact = row["composition"]["exact"]
            low, high = exact["interval"]
            value = 100 * exact["accuracy"]
            reach = [[max(0, value - 100 * low)], [max(0, 100 * high - value)]]
            colour = "#e6550d" if row["variant"] in PRESETS else "#3182bd"
            axis.errorbar(value, place, None, reach, fmt="o", color=colour, ecolor="#d9d9d9")
        names = [f"{row['variant']}   {row['operations'] / 1e9:.0f} GFLOP" for row in rows]
        axis.set_yticks(range(len(rows)), names, fontsize=8)
        axis.set_xlabel("scenes exactly right, %")
        axis.spines[["top", "right"]].set_visible(False)
        title = f"{size} px, {newest['n']} held-out scenes, 95 % intervals; {newest['date'][:10]}"
        axis.set_title(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="full", help="small or full, of the parts' networks")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, made in (
        ("speed.png", speed(options.size, options.out / "speed.png")),
        ("approximations.png", approximations(options.out / "approximations.png")),
    ):
        print(options.out / name if made else f"{name}: nothing is measured yet")


if __name__ == "__main__":
    main()
