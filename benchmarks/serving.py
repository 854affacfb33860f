"""What `unclip serve` costs and withstands: latency, throughput, memory, answers that are mixed up.

python benchmarks/serving.py [PART…] [--model DIR] [--device cpu] [--batch-size N]
                             [--images 40] [--requests 1000] [--clients 64] [--seconds 600]
                             [--steps fast] [--size PIXELS]

Starts the command on a free port of 127.0.0.1, and asks it from this machine alone, all parts or
those that are named:

- latency: the same images by the pipeline in this process and by the server, in turn; the
  difference of the medians is what the server adds;
- throughput: images a second of one client, and of eight;
- stream: after which share of the time the images on the way come, and how near they are to the
  final one;
- memory: what the server's process holds after a tenth of `--requests`, and after all;
- mixed: `--clients` for `--seconds`, each asking for images of which it knows every pixel;
  wrong and lost answers are counted.

`--steps` is a preset, or a number for the prior and the decoder. Prints a Markdown table, and adds
a line to benchmarks/results/results.jsonl.
"""

import argparse
import asyncio
import base64
import json
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
        self.knobs: dict[str, Any] = {"steps": options.steps}
        if options.steps.isdigit():
            count = int(options.steps)
            self.knobs = {"prior_num_inference_steps": count, "decoder_num_inference_steps": count}
        self.body = self.knobs | ({"size": f"{options.size}x{options.size}"}
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


async def _latency(served: Served, options: argparse.Namespace) -> dict[str, Any]:
    """Medians of seconds: by the pipeline, and by the server, in turn."""
    pipe = Pipeline.from_pretrained(options.model, device=options.device, dtype="fp32")
    pipe.set_progress_bar_config(disable=True)
    alone, over = [], []
    async with httpx2.AsyncClient(base_url=served.address, timeout=600) as http:
        for seed in range(options.images + 1):
            began = time.perf_counter()
            pipe(CAPTIONS[0], seed=seed, size=options.size, **served.knobs)
            between = time.perf_counter()
            await served.image(http, CAPTIONS[0], seed)
            alone.append(between - began)
            over.append(time.perf_counter() - between)
    return {"alone": statistics.median(alone[1:]), "served": statistics.median(over[1:])}


async def _throughput(served: Served, options: argparse.Namespace) -> dict[str, Any]:
    """Images a second of one client, and of eight."""
    rates = [await _rate(served, clients, options.images) for clients in (1, 8)]
    return dict(zip(("serial", "eight"), rates, strict=True))


async def _memory(served: Served, options: argparse.Namespace) -> dict[str, Any]:
    """Megabytes after a tenth of the requests, and after all."""
    tenth = max(1, options.requests // 10)
    await _rate(served, 8, tenth)
    before = served.memory()
    await _rate(served, 8, options.requests - tenth)
    return {"before": before, "after": served.memory()}


async def _mixed(served: Served, options: argparse.Namespace) -> dict[str, Any]:
    """Answers, of clients that know what they must get."""
    tolerance = 0 if options.device == "cpu" and options.batch_size in (None, 1) else 1
    pairs = [(caption, seed) for caption in CAPTIONS for seed in range(SEEDS)]
    async with httpx2.AsyncClient(base_url=served.address, timeout=600) as http:
        known = {pair: (await served.image(http, *pair)).astype(int) for pair in pairs}
    found: Counter[str] = Counter()
    until = time.monotonic() + options.seconds

    async def client(number: int) -> None:
        async with httpx2.AsyncClient(base_url=served.address, timeout=600) as http:
            turn = number
            while time.monotonic() < until:
                pair = pairs[turn % len(pairs)]
                turn += 7
                try:
                    made = await served.image(http, *pair)
                except httpx2.HTTPError:
                    found["lost"] += 1
                    continue
                if isinstance(made, int):
                    found[f"status {made}"] += 1
                elif np.abs(made.astype(int) - known[pair]).max() <= tolerance:
                    found["right"] += 1
                else:
                    found["wrong"] += 1

    await asyncio.gather(*map(client, range(options.clients)))
    return {"answers": dict(found), "idle": served.memory()}


async def _stream(served: Served, options: argparse.Namespace) -> dict[str, Any]:
    """When the images on the way come, and how near the final one they are (PSNR in dB)."""
    shares, nearness = [], []
    async with httpx2.AsyncClient(base_url=served.address, timeout=600) as http:
        for seed in range(options.images):
            body = {"prompt": CAPTIONS[seed % 4], "seed": seed, "stream": True, **served.body}
            began, came, images = time.perf_counter(), [], []
            async with http.stream(
                "POST", "/v1/images/generations", json={**body, "partial_images": 3}
            ) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        came.append(time.perf_counter() - began)
                        data = base64.b64decode(json.loads(line[6:])["b64_json"])
                        images.append(np.asarray(Image.open(BytesIO(data)), float))
            errors = [float(np.mean((one - images[-1]) ** 2)) for one in images[:-1]]
            shares.append([when / came[-1] for when in came[:-1]])
            nearness.append([float(10 * np.log10(255**2 / error)) for error in errors])
    return {"shares": np.mean(shares, 0).tolist(), "latest_first": max(row[0] for row in shares),
            "nearness": np.mean(nearness, 0).tolist(),
            "nearer": float(np.mean([row == sorted(row) for row in nearness]))}  # fmt: skip


PARTS = {"latency": _latency, "throughput": _throughput, "stream": _stream, "memory": _memory,
         "mixed": _mixed}  # fmt: skip


async def measured(options: argparse.Namespace, served: Served) -> dict[str, Any]:
    """What was asked for, in order."""
    found: dict[str, Any] = {}
    for name in options.parts or PARTS:
        found |= await PARTS[name](served, options)
        print(f"{name}: {found}", file=sys.stderr, flush=True)
    return found


def rows(found: dict[str, Any], options: argparse.Namespace) -> dict[str, str]:
    """The lines of the table."""
    said: dict[str, str] = {}
    if "alone" in found:
        added = found["served"] - found["alone"]
        said["an image by the pipeline, by the server"] = (
            f"{found['alone'] * 1e3:.1f} ms, {found['served'] * 1e3:.1f} ms: "
            f"{added * 1e3:+.1f} ms, {added / found['alone']:+.1%}"
        )
    if "eight" in found:
        said["images a second, one client and eight"] = (
            f"{found['serial']:.2f}, {found['eight']:.2f}: {found['eight'] / found['serial']:.2f} ×"
        )
    if "shares" in found:
        when = ", ".join(f"{share:.0%}" for share in found["shares"])
        near = ", ".join(f"{psnr:.1f}" for psnr in found["nearness"])
        said["images on the way, after which part of the time"] = (
            f"{when}; the first after {found['latest_first']:.0%} at most"
        )
        said["their PSNR to the final image"] = (
            f"{near} dB; each nearer than the one before in {found['nearer']:.0%}"
        )
    if "before" in found:
        growth = found["after"] / found["before"] - 1
        said[f"memory after {options.requests // 10} and {options.requests} requests"] = (
            f"{found['before']:.0f} MB, {found['after']:.0f} MB: {growth:+.1%}"
        )
    if "answers" in found:
        said[f"{options.clients} clients for {options.seconds:g} s"] = str(found["answers"])
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
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
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server ends too
    served = Served(options)
    try:
        found = asyncio.run(measured(options, served))
    finally:
        served.process.terminate()
        code = served.process.wait(60)
    print(f"\n{machine(torch.device(options.device))}, load {os.getloadavg()[0]:.1f}\n")
    print("| what | value |\n|---|---|")
    for what, value in rows(found, options).items():
        print(f"| {what} | {value} |")
    print(f"| exit code after SIGTERM | {code} |")
    record(torch.device(options.device), benchmark="serving", **found, asked=vars(options))


if __name__ == "__main__":
    main()
