"""How long an image takes by each preset: a process until its PNG, and a pipeline that is open.

python benchmarks/presets.py [MODEL] [--threads 1 2] [--images 8]

Medians, in fp32 and in the CPU's faster type. A process is `unclip generate` with this machine's
own threads. `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2` before it plays an older CPU. Prints
Markdown tables.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from unclip.device.precision import fastest_dtype, name_of
from unclip.pipeline.pipeline import Pipeline

CAPTION = "a red circle above a blue star on a white background"
PRESETS = ("turbo", "fast", "default")
PROCESSES = 3


def processes(model: list[str]) -> str:
    """A row: seconds from the start of a process to its end, with one PNG written."""
    cells = []
    for preset in PRESETS:
        took = []
        for _ in range(PROCESSES):
            with tempfile.TemporaryDirectory() as folder:
                image = str(Path(folder) / "image.png")
                words = ["generate", CAPTION, *model, "--steps", preset, "-o", image]
                began = time.perf_counter()
                subprocess.run([sys.executable, "-m", "unclip", *words], check=True,
                               capture_output=True)  # fmt: skip
                took.append(time.perf_counter() - began)
        cells.append(f"{statistics.median(took):.1f} s")
    return f"| a process, to its PNG | {' | '.join(cells)} |"


def open_pipeline(pipe: Pipeline, images: int) -> str:
    """A row: milliseconds of a further image."""
    cells = []
    for preset in PRESETS:
        took = []
        for seed in range(images + 1):
            began = time.perf_counter()
            pipe(CAPTION, seed=seed, steps=preset)
            took.append(time.perf_counter() - began)
        cells.append(f"{statistics.median(took[1:]) * 1e3:.0f} ms")
    threads = torch.get_num_threads()
    return f"| {name_of(pipe.dtype)}, threads: {threads} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", help="the bundled model if left out")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    print(f"| | {' | '.join(PRESETS)} |\n|{'---|' * (len(PRESETS) + 1)}")
    print(processes(["--model", options.model] if options.model else []), flush=True)
    for dtype in sorted({"fp32", name_of(fastest_dtype("cpu"))}):
        pipe = Pipeline.from_pretrained(options.model, dtype=dtype, device="cpu")
        pipe.set_progress_bar_config(disable=True)
        for threads in options.threads:
            torch.set_num_threads(threads)
            print(open_pipeline(pipe, options.images), flush=True)


if __name__ == "__main__":
    main()
