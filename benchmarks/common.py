"""What benchmarks share: the machine, its limits, and a record of what was measured."""

import contextlib
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from unclip import __version__
from unclip.device.instructions import instructions
from unclip.device.precision import matmul_speeds, types_of

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "results.jsonl"


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_peak(device: torch.device) -> dict[torch.dtype, float]:
    """Operations a second in products of square matrices, the most that networks can hope for.

    For each type that the device has instructions for.
    """
    if device.type == "cpu":
        return matmul_speeds(2048)
    n, speeds = 8192, {}
    for dtype in (*types_of(device.type), torch.float16):
        a = torch.randn(n, n, device=device, dtype=dtype)
        for count in (3, 10):  # the first round warms up
            synchronise(device)
            began = time.perf_counter()
            for _ in range(count):
                a @ a
            synchronise(device)
        speeds[dtype] = 2 * n**3 * count / (time.perf_counter() - began)
    return speeds


def memory_bandwidth(device: torch.device, repeats: int = 5) -> float:
    """Bytes a second that a copy of 256 MiB reads and writes, best of `repeats`."""
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target, seconds = source.clone(), []
    for _ in range(repeats):
        synchronise(device)
        began = time.perf_counter()
        target.copy_(source)
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    return 2 * source.numel() / min(seconds)


def machine(device: torch.device) -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "cpu": model, "kernels": instructions().kernels, "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "gpu": gpu,
    }  # fmt: skip


def commit() -> str | None:
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.stdout.strip() or None
    return None


def record(device: torch.device, **results: Any) -> None:
    """Append one JSON object to `RESULTS`: date, machine and versions before `results`."""
    versions = {"unclip": __version__, "commit": commit(), "python": platform.python_version()}
    for package in ("torch", "diffusers"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    line = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(device),
        "versions": versions,
        **results,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


def operation_counter() -> FlopCounterMode:
    """Counts operations, those of packed linear layers too."""

    def linear(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * math.prod(x) * weight[0]

    packed = torch.ops.mkldnn._linear_pointwise
    return FlopCounterMode(display=False, custom_mapping={packed: linear})
