"""The paper's tables on the built-in world, measured: one JSON file for each study.

python benchmarks/paper.py [--only a d c] [-n 1000] [--device cuda] [--models DIR] [--out DIR]

DIR of models holds one folder for each (`unclip/evaluation/paper/models.py`); without it, the
bundled model is measured alone. A row is on the disk as soon as it is measured, so that a run which
was killed goes on, and studies come in the order of their importance. `--dry-run` counts. The
tables are written into docs/paper_tables.md by benchmarks/paper_tables.py.
"""

import argparse
import math
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "paper"


def main() -> int:
    options = arguments()
    from unclip.checks import printable
    from unclip.evaluation.paper.catalogue import STUDIES
    from unclip.evaluation.paper.study import run

    letters = options.only or list(STUDIES)
    unknown = [letter for letter in letters if letter not in STUDIES]
    if unknown:
        print(f"error: no study {', '.join(unknown)}; there are {', '.join(STUDIES)}",
              file=sys.stderr)  # fmt: skip
        return 2
    began = time.perf_counter()
    try:
        with lab_of(options) as lab:
            print(f"opened in {time.perf_counter() - began:.1f} s", flush=True)
            if options.dry_run:
                plan(lab, letters)
                return 0
            end = began + 60 * options.minutes if options.minutes else math.inf
            for letter in letters:
                start = time.perf_counter()
                run(STUDIES[letter], lab, options.out, lambda line: print(line, flush=True),
                    lambda: time.perf_counter() > end)  # fmt: skip
                print(f"({letter}) took {time.perf_counter() - start:.1f} s", flush=True)
    except ValueError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="LETTER", help="studies, a to i")
    parser.add_argument("-n", type=int, default=1000, help="images of a row")
    parser.add_argument("--models", type=Path, help="folder of model folders")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="of the networks")
    parser.add_argument(
        "--judge", type=Path, help="folder with a judge; the bundled one if left out"
    )
    parser.add_argument("--features", nargs="*", default=[], metavar="NAME",
                        help="extractors beside clip and judge: a name or a folder")  # fmt: skip
    parser.add_argument(
        "--size", type=int, help="pixels of a side; the model's largest if left out"
    )
    parser.add_argument("--steps", default="default", help="preset of samplers and steps")
    parser.add_argument(
        "--decoder-steps", type=int, help="of the decoder; the preset's if left out"
    )
    parser.add_argument("--batch", type=int, help="images at a time; 500 on a GPU, else 16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=max(1, min(16, (os.cpu_count() or 1) - 1)),
                        help="that draw scenes")  # fmt: skip
    parser.add_argument("--minutes", type=float, help="after which no further row is begun")
    parser.add_argument("--dry-run", action="store_true", help="count images and evaluations")
    return parser.parse_args()


def lab_of(options: argparse.Namespace) -> "Lab":  # type: ignore[name-defined] # noqa: F821
    """Models, judge and extractors, opened."""
    import torch

    from common import commit, machine
    from unclip.evaluation.features.extractor import NetworkExtractor, open_extractor
    from unclip.evaluation.features.judge import of_judge
    from unclip.evaluation.judge.network import load_judge
    from unclip.evaluation.paper.lab import Lab
    from unclip.evaluation.paper.models import Models
    from unclip.interfaces.cli.evaluations.shared import WORLD

    if (os.cpu_count() or 1) >= 8:  # metrics are computed in four threads beside the device
        torch.set_num_threads((os.cpu_count() or 8) // 4)
    models = Models(options.models, options.device, options.precision)
    judge = models.to(load_judge(options.judge))
    device = models.bundled.device
    extractors = [open_extractor("clip", models.bundled, device),
                  NetworkExtractor("judge", of_judge(judge), device),
                  *(open_extractor(name, models.bundled, device) for name in options.features),
    ]  # fmt: skip
    return Lab(
        models, judge, extractors, WORLD, options.n,
        options.batch or (500 if device.type == "cuda" else 16), options.seed, options.size,
        options.steps, options.decoder_steps, options.processes,
        threads=4 if (os.cpu_count() or 1) >= 8 else 1,
        facts={"precision": str(models.bundled.dtype).removeprefix("torch."),
               "torch": torch.__version__, "machine": machine(device), "commit": commit(),
               "date": datetime.now(UTC).isoformat(timespec="seconds")},
    )  # fmt: skip


def plan(lab: "Lab", letters: list[str]) -> None:  # type: ignore[name-defined] # noqa: F821
    """Print the images and evaluations of each study, those of earlier ones not again."""
    from unclip.evaluation.paper.catalogue import STUDIES

    print("| study | rows | images | evaluations of a network, by image |\n|---|---:|---:|---:|")
    done, totals = [], [0, 0, 0]
    for letter in letters:
        cells = STUDIES[letter].cells(lab)
        before = lab.cost(done)
        done += [ask for cell in cells for ask in cell.asks]
        after = lab.cost(done)
        images = after[0] - before[0]
        evaluations = after[1] - before[1] + sum(cell.others for cell in cells)
        print(f"| ({letter}) {STUDIES[letter].title} | {len(cells)} | {images:,} | "
              f"{evaluations:,} |")  # fmt: skip
        totals = [a + b for a, b in zip(totals, (len(cells), images, evaluations), strict=True)]
    print(f"| all | {totals[0]} | {totals[1]:,} | {totals[2]:,} |")


if __name__ == "__main__":
    sys.exit(main())
