"""What this machine makes of unclip: start to image, memory, training speed, scenes a second.

python benchmarks/run.py [--device cuda] [--quick]

Prints a table and appends one JSON object to benchmarks/results/results.jsonl.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from bench_world import measure
from common import RESULTS, ROOT, matrix_peak, record
from unclip.data.world.scene import WorldConfig
from unclip.device.precision import device_named, name_of
from unclip.stages.catalogue import STAGES
from unclip.stages.spec import load_recipe
from unclip.storage.folder import bundled
from unclip.training.job import Folders
from unclip.training.start import start

PROMPT = "a red circle above a blue square"
MOST_IMAGES = 192  # a step: recipes of a GPU have more
Row = tuple[str, float | None, str]  # what, number, unit or why there is none


def cold_start(device: str, repeats: int) -> list[Row]:
    """A process of its own, from its start to the PNG: median time and largest peak memory."""
    names = ("process start to PNG", "peak memory of that process")
    if not bundled("model").is_dir():
        return [(name, None, "no model is bundled") for name in names]
    seconds, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        words = ["generate", PROMPT, "--device", device, "--output", f"{folder}/image.png"]
        for _ in range(repeats):
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "unclip.interfaces.cli", *words], stdout=subprocess.DEVNULL
            )
            _, status, usage = os.wait4(process.pid, 0)
            seconds.append(time.perf_counter() - began)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit("unclip generate failed; see above")
            # Linux counts in KiB, macOS in bytes.
            peaks.append(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
    return [(names[0], statistics.median(seconds), "s"), (names[1], max(peaks), "MiB")]


def training_speed(device: str, steps: int) -> list[Row]:
    """Images a second of every stage with the recipe of the bundled model, median over steps.

    The real loop is run, data included, into a folder that is thrown away; the prior and the
    decoder are trained on the CLIP that the first stage has left there.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, spec in STAGES.items():
            recipe = load_recipe(spec, ROOT / "recipes" / f"bundled-{name}.toml")
            batch = min(recipe.training.batch_size, MOST_IMAGES)
            training = replace(
                recipe.training, steps=steps, batch_size=batch, log_every=1, preview_every=0
            )
            quick = {"captions": 1000, "statistics": 256}  # made once in a run
            known = vars(recipe.network)
            network = replace(recipe.network, **{k: v for k, v in quick.items() if k in known})
            recipe = replace(recipe, network=network, training=training)
            where = Folders(Path(folder) / "model", Path(folder) / name)
            with contextlib.redirect_stdout(io.StringIO()):
                start(spec, recipe, where, device)
            lines = (where.run / "metrics.jsonl").read_text().splitlines()
            speeds = [json.loads(line)["images_per_second"] for line in lines]
            what = f"train {name}, {recipe.data.size} px, batches of {batch}"
            rows.append((what, statistics.median(speeds[len(speeds) // 3 :]), "images/s"))
    return rows


def scenes(seconds: float) -> list[Row]:
    """The built-in world at 64 px, on one core and on all."""
    rates = measure(WorldConfig(size=64), seconds)
    return [
        ("scenes of 64 px, one core", rates["one_core"], "scenes/s"),
        (f"scenes of 64 px, {rates['cores']:.0f} cores", rates["machine"], "scenes/s"),
    ]


def peak(device: torch.device) -> list[Row]:
    """Products of square matrices, the most that networks can hope for."""
    speeds = matrix_peak(device)
    return [(f"matrix product, {name_of(t)}", v / 1e9, "GFLOP/s") for t, v in speeds.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="fewer repeats: a rough idea")
    arguments = parser.parse_args()
    device = device_named(arguments.device)
    rows = cold_start(str(device), 1 if arguments.quick else 3)
    rows += training_speed(str(device), 6 if arguments.quick else 20)
    rows += scenes(0.5 if arguments.quick else 2.0)
    rows += peak(device)
    width = max(len(what) for what, _, _ in rows)
    for what, number, unit in rows:
        print(f"{what:<{width}}  " + (unit if number is None else f"{number:>10,.1f} {unit}"))
    results = {what: {"value": number, "unit": unit} for what, number, unit in rows}
    record(device, quick=arguments.quick, results=results)
    print(f"\nadded to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
