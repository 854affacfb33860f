"""Four images of the bundled model: threads within layers, side by side, and one thread.

python benchmarks/side_by_side.py [--engine openvino] [--precision fp32] [--rounds 3]

The ways take turns in one process; medians of seconds are printed, and whether the images side by
side are one thread's to the last bit.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from common import machine
from unclip import Pipeline
from unclip.device.names import ENGINES

PROMPT, IMAGES = "a red circle above a blue square", 4


def ways(pipe: Pipeline, threads: int) -> dict[str, Callable[[], Tensor]]:
    """What is compared, by name."""

    def made(count: int, beside: bool) -> Tensor:
        torch.set_num_threads(count)
        images = pipe(PROMPT, IMAGES, side_by_side=beside, output_type="tensor").images
        return images  # type: ignore[no-any-return]

    return {
        "one thread": lambda: made(1, False),
        f"{threads} threads within layers": lambda: made(threads, False),
        f"{threads} threads side by side": lambda: made(threads, True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default="torch")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="leave out threads within layers")
    arguments = parser.parse_args()
    pipe = Pipeline.from_pretrained(
        dtype=arguments.precision, device="cpu", engine=arguments.engine
    )
    pipe.set_progress_bar_config(disable=True)
    compared = ways(pipe, arguments.threads)
    if arguments.busy:
        del compared[f"{arguments.threads} threads within layers"]
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    last: dict[str, Tensor] = {}
    for turn in range(arguments.rounds + 1):
        for name, run in compared.items():
            began = time.perf_counter()
            last[name] = run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    known = machine(pipe.device)
    print(f"{known['cpu']} ({known['kernels']}), {IMAGES} images, {arguments.engine}, {pipe.dtype}")
    for name, taken in seconds.items():
        print(f"{name:<28}{statistics.median(taken):>8.2f} s")
    first, *_, beside = last.values()
    print(f"side by side equal to one thread: {torch.equal(first, beside)}")


if __name__ == "__main__":
    main()
