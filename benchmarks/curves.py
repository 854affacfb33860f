"""What a run measured on held-out images and on as many of its own, over its epochs, as a picture.

python benchmarks/curves.py runs/mine/prior [more runs …] --out docs/images/fine-tuning.png
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

KEYS = {"validation_seen_loss": ("images it learns from", "#9ecae1"),
        "validation_loss": ("held-out images", "#e6550d")}  # fmt: skip


def curves(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Of each key its values and their epochs, or steps where there are none."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        key: [(line.get("epoch", line["step"]), line[key]) for line in lines if key in line]
        for key in KEYS
    }


def plot(runs: list[Path], file: Path) -> None:
    """One panel a run, with a mark at the lowest held-out loss."""
    figure, axes = pyplot.subplots(1, len(runs), figsize=(4.5 * len(runs), 3), squeeze=False)
    for axis, run in zip(axes[0], runs, strict=True):
        found = curves(run)
        for key, (name, colour) in KEYS.items():
            axis.plot(*zip(*found[key], strict=True), label=name, color=colour)
        epoch, lowest = min(found["validation_loss"], key=lambda point: point[1])
        axis.axvline(epoch, color="#b8b8b8", linestyle=":")
        axis.annotate("published", (epoch, lowest), xytext=(4, -12), textcoords="offset points")
        axis.set(title=run.name, xlabel="epochs", ylabel="loss")
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/images/fine-tuning.png"))
    options = parser.parse_args()
    plot(options.runs, options.out)
    print(options.out)
