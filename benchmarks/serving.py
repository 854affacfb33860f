"""What `unclip serve` costs and withstands: latency, throughput, memory, answers that are mixed up.

python benchmarks/serving.py [--model DIR] [--device cpu] [--batch-size N] [--requests 1000]
                             [--clients 64] [--seconds 600] [--steps fast] [--size PIXELS]

Starts the command on a free port of 127.0.0.1, and asks it from this machine alone:

- latency: the same images by the pipeline in this process and by the server, in turn; the
  difference of the medians is what the server adds;
- throughput: images a second of one client, and of eight;
- memory: what the server's process holds after a tenth of `--requests`, and after all;
- mixed answers: `--clients` for `--seconds`, each asking for images of which it knows every pixel;
  wrong and lost answers are counted.

Prints a Markdown table, and adds a line to benchmarks/results/results.jsonl.
"""

import argparse
import asyncio
import base64
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch
from PIL import Image

from common import machine, record
from unclip.pipeline.pipeline import Pipeline

CAPTIONS = ["a red star", "a blue ring", "a green heart at night", "a yellow square"]
SEEDS = 4


class Served:
    """The command, and what it was asked."""

    def __init__(self, options: argparse.Namespace) -> None:
        words = [sys.executable, "-m", "unclip", "serve", "--port", "0", "--queue", "1000",
                 "--device", options.device, "--precision", "fp32"]  # fmt: skip
        words += ["--model", options.model] if options.model else []
        words += ["--batch-size", str(options.batch_size)] if options.batch_size else []
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split(" at ")[1].split(" ")[0]
        self.body = {"steps": options.steps} | ({"size": f"{options.size}x{options.size}"}
                                                if options.size else {})  # fmt: skip

    def memory(self) -> float:
        """Megabytes that the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1024

    async def image(self, http: httpx2.AsyncClient, caption: str, seed: int) -> Any:
        """Pixels, or the status of a refusal."""
        body = {"prompt": caption, "seed": seed, **self.body}
        answer = await http.post("/v1/images/generations", json=body)
        if answer.status_code != 200:
            return answer.status_code
        data = base64.b64decode(answer.json()["data"][0]["b64_json"])
        return np.asarray(Image.open(BytesIO(data)))


async def _rate(served: Served, clients: int, images: int) -> float:
    """Images a second."""

    async def client(number: int) -> None:
        async with httpx2.AsyncClient(base_url=served.address, timeout=600) as http:
            for turn in range(images // clients):
                await served.image(http, CAPTIONS[number % 4], turn)

    began = time.perf_counter()
    await asyncio.gather(*map(client, range(clients)))
    return images // clients * clients / (time.perf_counter() - began)


async def _latency(served: Served, pipe: Pipeline, images: int) -> tuple[float, float]:
    """Medians of seconds: by the pipeline, and by the server, in turn."""
    alone, over = [], []
    size = int(served.body["size"].split("x")[0]) if "size" in served.body else None
    async with httpx2.AsyncClient(base_url=served.address, timeout=600) as http:
        for seed in range(images + 1):
            began = time.perf_counter()
            pipe(CAPTIONS[0], seed=seed, steps=served.body["steps"], size=size)
            between = time.perf_counter()
            await served.image(http, CAPTIONS[0], seed)
            alone.append(between - began)
            over.append(time.perf_counter() - between)
    return statistics.median(alone[1:]), statistics.median(over[1:])


async def _mixed(served: Served, known: dict[Any, Any], clients: int, seconds: float,
                 tolerance: int) -> Counter[str]:  # fmt: skip
    """Answers, of clients that know what they must get."""
    found: Counter[str] = Counter()
    until = time.monotonic() + seconds

    async def client(number: int) -> None:
        async with httpx2.AsyncClient(base_url=served.address, timeout=600) as http:
            turn = number
            while time.monotonic() < until:
                caption, seed = list(known)[turn % len(known)]
                turn += 7
                try:
                    made = await served.image(http, caption, seed)
                except httpx2.HTTPError:
                    found["lost"] += 1
                    continue
                if isinstance(made, int):
                    found[f"status {made}"] += 1
                elif np.abs(made.astype(int) - known[caption, seed]).max() <= tolerance:
                    found["right"] += 1
                else:
                    found["wrong"] += 1

    await asyncio.gather(*map(client, range(clients)))
    return found


async def measured(options: argparse.Namespace, pipe: Pipeline, served: Served) -> dict[str, Any]:
    """All of it, in order."""
    async with httpx2.AsyncClient(base_url=served.address, timeout=600) as http:
        known = {
            (caption, seed): (await served.image(http, caption, seed)).astype(int)
            for caption in CAPTIONS for seed in range(SEEDS)
        }  # fmt: skip
    alone, over = await _latency(served, pipe, options.images)
    serial, eight = [await _rate(served, clients, options.images) for clients in (1, 8)]
    tenth = max(1, options.requests // 10)
    await _rate(served, 8, tenth)
    before = served.memory()
    await _rate(served, 8, options.requests - tenth)
    after = served.memory()
    tolerance = 0 if options.device == "cpu" and options.batch_size in (None, 1) else 1
    answers = await _mixed(served, known, options.clients, options.seconds, tolerance)
    return {
        "alone": alone, "served": over, "serial": serial, "eight": eight, "before": before,
        "after": after, "answers": dict(answers), "idle": served.memory(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--steps", default="fast")
    parser.add_argument("--size", type=int)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained(options.model, device=options.device, dtype="fp32")
    pipe.set_progress_bar_config(disable=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server ends too
    served = Served(options)
    try:
        found = asyncio.run(measured(options, pipe, served))
    finally:
        served.process.terminate()
        code = served.process.wait(60)
    added = found["served"] - found["alone"]
    growth = found["after"] / found["before"] - 1
    print(f"\n{machine(torch.device(options.device))}, load {os.getloadavg()[0]:.1f}\n")
    print("| what | value |\n|---|---|")
    print(f"| an image by the pipeline, by the server | {found['alone'] * 1e3:.1f} ms, "
          f"{found['served'] * 1e3:.1f} ms |")  # fmt: skip
    print(f"| added | {added * 1e3:.1f} ms, {added / found['alone']:.1%} |")
    print(f"| images a second, one client and eight | {found['serial']:.2f}, {found['eight']:.2f}: "
          f"{found['eight'] / found['serial']:.2f} × |")  # fmt: skip
    print(f"| memory after {options.requests // 10} and {options.requests} requests | "
          f"{found['before']:.0f} MB, {found['after']:.0f} MB: {growth:+.1%} |")  # fmt: skip
    print(f"| {options.clients} clients for {options.seconds:g} s | {found['answers']} |")
    print(f"| exit code after SIGTERM | {code} |")
    record(torch.device(options.device), benchmark="serving", **found, asked=vars(options))


if __name__ == "__main__":
    main()
