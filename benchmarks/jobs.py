"""A job of many prompts in two processes that are killed twice, against one process's.

    python -m benchmarks.jobs [-n 10000] [--kills 2]
    python -m benchmarks.jobs --cost [--model DIR] [-n 20] [-- FLAGS OF unclip batch]
    python -m benchmarks.jobs --parts [--model DIR] [-n 20] [-- FLAGS OF unclip batch]

With a tiny model of random weights, some milliseconds an image. The kills come at moments drawn
by a seed, while shards are made. Prints how long it took, what the kills cost, and whether any
image is missing, double or another one; exits 1 if so.

With --cost: what one process needs for a model's images, by the difference of two jobs, in seconds
of a core; and its memory. With --parts: what of that goes where, by a profiler that counts the
process's own time, and makes all of it dearer.
"""

import argparse
import cProfile
import json
import os
import pstats
import random
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.tiny import tiny_model_folder

from unclip.interfaces.cli import main as unclip

_FAST = [
    "--prior-steps",
    "1",
    "--decoder-steps",
    "1",
    "--super-res-steps",
    "1",
    "--precision",
    "fp32",
    "--batch-size",
    "25",
]

_PARTS = {
    "prior": ("pipeline.py", "embed"),
    "decoder": ("pipeline.py", "decode"),
    "upsampler": ("pipeline.py", "upsampled"),
    "mark": ("provenance.py", "marked"),
    "PNG": ("images.py", "encoded"),
    "shard": ("job.py", "write_shard"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("flags", nargs="*")
    options = parser.parse_args()
    if options.cost:
        return cost(options.model, options.n, options.flags)
    if options.parts:
        return parts(options.model, options.n, options.flags)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        tiny_model_folder(Path("model"))
        colours, shapes = ("red", "blue", "green"), ("star", "ring", "heart", "cross")
        prompts = [f"a {colours[i % 3]} {shapes[i % 4]} number {i}" for i in range(options.n)]
        lines = (json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
        Path("prompts.jsonl").write_text("".join(lines))
        began, busy = time.monotonic(), children_seconds()
        assert begun("one").wait() == 0
        took, busy = time.monotonic() - began, children_seconds() - busy
        each = f"{1000 * busy / options.n:.1f} ms an image with the start"
        print(f"one process: {options.n:,} prompts in {took:.0f} s, {busy:.0f} s of a core", end="")
        print(f", {each}", flush=True)
        began, busy, moments = time.monotonic(), children_seconds(), random.Random(0)
        for kill in range(options.kills):
            workers = [begun("two", k) for k in (0, 1)]
            wanted = (kill + 1) * options.n // 100 // (options.kills + 1)
            while shards("two") < wanted and all(one.poll() is None for one in workers):
                time.sleep(0.05)
            time.sleep(moments.uniform(0, 3))
            for one in workers:
                one.send_signal(signal.SIGKILL)
                one.wait()
            print(f"killed at {shards('two')} of {options.n // 100} shards", flush=True)
        assert [one.wait() for one in (begun("two", 0), begun("two", 1))] == [0, 0]
        print(
            f"two processes, killed {options.kills} times: {time.monotonic() - began:.0f} s", end=""
        )
        print(f", {children_seconds() - busy:.0f} s of a core", flush=True)
        return compared(prompts)


def cost(model: str, count: int, flags: list[str]) -> int:
    """Print what a process needs for `count` images, beside its start."""
    spent = []
    with tempfile.TemporaryDirectory() as place:
        for images in (1, 1 + count):
            table = Path(place) / f"{images}.jsonl"
            table.write_text('{"prompt": "a red star on a blue background"}\n' * images)
            words = ["batch", str(table), "-o", f"{place}/{images}", "--model", model, *flags]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            before = children_seconds()
            subprocess.run([sys.executable, "-m", "unclip", *words], env=environment, check=True)
            spent.append(children_seconds() - before)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    each = (spent[1] - spent[0]) / count
    print(f"start and one image: {spent[0]:.1f} s of a core; each other one: {each:.2f} s, that is")
    print(f"{3600 / each:,.0f} images an hour a core; {most:.0f} MB at most")
    return 0


def parts(model: str, count: int, flags: list[str]) -> int:
    """Print which parts of a job of `count` images, whose model is open, take how much of it."""
    with tempfile.TemporaryDirectory() as place:
        for images in (1, count):  # the first one imports
            table = Path(place) / f"{images}.jsonl"
            table.write_text('{"prompt": "a red star on a blue background"}\n' * images)
            words = ["batch", str(table), "-o", f"{place}/{images}-out", "--model", model, *flags]
            profile = cProfile.Profile(time.process_time)
            profile.runcall(unclip, words)
    took = {(Path(file).name, name): of[3] for (file, _, name), of in stats(profile).items()}
    whole = took["worker.py", "_fill"]
    each = {part: took.get(where, 0.0) for part, where in _PARTS.items()}
    each["the rest"] = whole - sum(each.values())
    said = ", ".join(f"{part} {100 * seconds / whole:.1f} %" for part, seconds in each.items())
    print(f"{1000 * whole / count:.0f} ms of a core an image: {said}")
    return 0


def stats(profile: cProfile.Profile) -> dict[tuple[str, int, str], tuple[Any, ...]]:
    """What a profile counted: (file, line, function) → calls, own calls, own seconds, seconds."""
    return pstats.Stats(profile).stats  # type: ignore[attr-defined,no-any-return]


def children_seconds() -> float:
    """What processes that have ended took of a core; load by others changes it little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def begun(folder: str, worker: int | None = None) -> "subprocess.Popen[bytes]":
    """A process that works on a job."""
    words = ["batch", "prompts.jsonl", "-o", folder, "--model", "model", *_FAST]
    words += [] if worker is None else ["--worker", f"{worker}/2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "unclip", *words]
    return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL)


def shards(folder: str) -> int:
    """How many of a job's shards are there."""
    return len(list(Path(folder).glob("shard-*.tar")))


def compared(prompts: list[str]) -> int:
    """Print what is missing, double or different; 1 if anything is, else 0."""
    found: Counter[str] = Counter()
    for shard in sorted(Path("two").glob("shard-*.tar")):
        with tarfile.open(shard) as archive:
            texts = [name for name in archive.getnames() if name.endswith(".txt")]
            for name in texts:
                file = archive.extractfile(name)
                assert file is not None
                found[file.read().decode().strip()] += 1
    missing = sum(prompt not in found for prompt in prompts)
    double = sum(count > 1 for count in found.values())
    names = {path.name for folder in ("one", "two") for path in Path(folder).iterdir()}
    other = sum(
        not (Path("two") / name).is_file()
        or (Path("one") / name).read_bytes() != (Path("two") / name).read_bytes()
        for name in names
    )
    print(
        f"{sum(found.values()):,} images: {missing} missing, {double} double; {other} of", end=" "
    )
    print(f"{len(names)} files differ from one process's")
    return int(bool(missing or double or other))


if __name__ == "__main__":
    sys.exit(main())
