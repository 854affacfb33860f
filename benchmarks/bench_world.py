"""Scenes a second of the built-in world, caption and pixels: on one core and on all of them.

python benchmarks/bench_world.py [--size 64] [--seconds 2]
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec

from unclip.data.world.glyphs import FONT
from unclip.data.world.scene import WorldConfig
from unclip.data.world.world import World

WARM_UP = 1500  # scenes: enough to fill the caches of masks and backgrounds


def _rate(config: WorldConfig, seconds: float) -> float:
    """Scenes a second of one process, after a warm-up."""
    world = World(config)
    for index in range(WARM_UP):
        world[index]
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(50):
            world[WARM_UP + count]
            count += 1
    return count / elapsed


def measure(config: WorldConfig, seconds: float = 2.0) -> dict[str, float]:
    """Scenes a second on one core, and on all cores with one process each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = cores or 1
    one = _rate(config, seconds)
    with ProcessPoolExecutor(workers) as pool:
        rates = [pool.submit(_rate, config, seconds) for _ in range(workers)]
        total = sum(rate.result() for rate in rates)
    return {"one_core": round(one), "machine": round(total), "cores": workers}


def _has_emoji() -> bool:
    from PIL import ImageFont

    try:
        ImageFont.truetype(FONT, 109)
    except OSError:
        return False
    return find_spec("emoji") is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="resolution in pixels")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each measurement")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    arguments = parser.parse_args()
    configs = {
        "shapes": WorldConfig(size=arguments.size),
        "shapes, held-out": WorldConfig(size=arguments.size, split="held-out"),
        "shapes, contrast 4": WorldConfig(size=arguments.size, contrast=4),
    }
    if _has_emoji():
        configs["emoji"] = WorldConfig(kinds=("emoji",), size=arguments.size)
    results = {name: measure(config, arguments.seconds) for name, config in configs.items()}
    if arguments.json:
        print(json.dumps({"size": arguments.size, "scenes_per_second": results}))
        return
    print(f"scenes a second at {arguments.size} px, caption and pixels")
    for name, rates in results.items():
        print(
            f"{name:20} {rates['one_core']:8,.0f} on one core"
            f" {rates['machine']:8,.0f} on {rates['cores']:.0f} cores"
        )


if __name__ == "__main__":
    main()
