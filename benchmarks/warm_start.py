"""What a start from the bundled model is worth on one's own images: losses after a few steps.

python benchmarks/warm_start.py DATA [--work out/warm-start] [--stages decoder prior] [--steps 100]

Trains each stage, with the sizes of the bundled model's and the same seed, three times at 32 px:
from nothing on the bundled CLIP, from the bundled model on its CLIP, and from the bundled model on
a CLIP that was trained on DATA for 100 steps. Prints a Markdown table: the mean loss of the 20
steps before a step. What is there in the work folder already is not trained again.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from unclip.interfaces.cli import main as unclip

AT = (40, 100, 300)  # steps
_MEAN_OF = 20  # steps
_CLIP_STEPS, _CLIP_BATCH = 100, 192
_RECIPES = Path(__file__).parents[1] / "recipes"


def train(stage: str, model: Path, options: Any, steps: int, *words: str) -> list[dict[str, float]]:
    """One run with the recipe of the bundled model's stage; its metrics, a row a step."""
    run = model / "run" / stage
    if not (run / "done").is_file():
        code = unclip(
            [
                "train", stage, "--model", str(model), "--run", str(run), "--overwrite",
                "--recipe", str(_RECIPES / f"bundled-{stage}.toml"),
                "--data", str(options.data), "--data.size", "32",
                "--training.steps", str(steps), "--training.log-every", "1",
                "--training.preview-every", "0", "--training.checkpoint-every", str(steps),
                "--training.batch-size", str(_CLIP_BATCH if stage == "clip" else options.batch),
                "--optimiser.warmup", "20", "--optimiser.decay", "0", *words,
            ]
        )  # fmt: skip
        if code:
            raise SystemExit(code)
        (run / "done").touch()
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def before(rows: list[dict[str, float]], step: int) -> float:
    """The mean loss of the steps before one; the unweighted error where that is logged."""
    key = "mse" if "mse" in rows[0] else "loss"
    return mean(row[key] for row in rows if step - _MEAN_OF < row["step"] <= step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("out/warm-start"))
    parser.add_argument("--stages", nargs="+", default=["decoder", "prior"])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16, help="images a step")
    options = parser.parse_args()
    own = options.work / "own"
    train("clip", own, options, _CLIP_STEPS)
    if unclip(["borrow", "clip", "--model", str(options.work / "nothing"), "--overwrite"]):
        raise SystemExit(1)
    bundled = ("--training.init", "bundled")
    rows = {}
    for stage in options.stages:
        for start, model, words in (
            ("nothing, on the bundled CLIP", options.work / "nothing", ()),
            ("bundled, on its CLIP", options.work / "bundled", bundled),
            ("bundled, on a CLIP of one's own", own, bundled),
        ):
            rows[stage, start] = train(stage, model, options, options.steps, *words)
    steps = [step for step in AT if step <= options.steps]
    print(f"| stage | starts from | {' | '.join(f'step {step}' for step in steps)} |")
    print(f"|---|---|{'---:|' * len(steps)}")
    for (stage, start), logged in rows.items():
        values = " | ".join(f"{before(logged, step):.3f}" for step in steps)
        print(f"| `{stage}` | {start} | {values} |")


if __name__ == "__main__":
    main()
