"""Try hostile inputs by the thousand: `python -m tests.fuzz.run -n 5000 --seed 0`.

Prints every failure as it is found, and tried and failed by class. Case i of a class follows from
(class, seed, i) alone: `--class recipes --only 12` runs one again, and shows all that it says.
"""

import argparse
import contextlib
import gc
import io
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from tqdm import tqdm

from tests.fuzz import (
    arguments,
    embeddings,
    flags,
    images,
    latents,
    measures,
    models,
    recipes,
    shards,
    tables,
)
from tests.fuzz.attempt import Ended, attempt, ended, start
from tests.fuzz.case import Case, Good, Maker

CLASSES: dict[str, Maker] = {
    "models": models.make,
    "recipes": recipes.make,
    "images": images.make,
    "tables": tables.make,
    "shards": shards.make,
    "embeddings": embeddings.make,
    "latents": latents.make,
    "measures": measures.make,
    "flags": flags.make,
    "arguments": arguments.make,
}
_WARM = (
    "generate 'a star' -o o.png",
    "vary {image} -o o.png",
    "inpaint {image} 'a star' --box 0,0,9,9 -o o.png",
    "embed {image} -o o.npy",
    "embed {images} -o e --size 16",
    "upscale {image} -o o.png",
    "blend {image} {image} -o o.gif --frames 2",
    "train clip --data {images} --dry-run --network.size tiny --network.vocab-size 560",
    "evaluate clip --data {images} --size 16 -n 4",
)


def main() -> int:
    options = _parser().parse_args()
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # no thread for it
    chosen = {name: CLASSES[name] for name in options.classes or CLASSES}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        good = Good.make(Path(folder))
        cases = [
            (name, number) for number in range(-(-options.n // len(chosen))) for name in chosen
        ][: options.n]
        if options.only is not None:
            return _show(next(iter(chosen)), options.seed, options.only, good, Path(folder))
        _warm(good)
        tried, ends, failed = Counter[str](), Counter[str](), Counter[str]()
        for name, number, end in _all(cases, options, good, Path(folder)):
            tried[name] += 1
            ends[f"{name} {end.code}"] += 1
            if end.faults:
                failed[name] += 1
                print(_line(name, number, end), flush=True)
    print(f"{'':<12}{'tried':>7}{'made':>7}{'refused':>9}{'failed':>8}")
    for name in chosen:
        made, refused = (ends[f"{name} {code}"] for code in (0, 2))
        print(f"{name:<12}{tried[name]:>7}{made:>7}{refused:>9}{failed[name]:>8}")
    print(f"{tried.total():,} tried, {failed.total():,} failed (seed {options.seed})")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=400, help="cases, over all classes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--class", dest="classes", action="append", choices=list(CLASSES))
    parser.add_argument("--only", type=int, help="this case of --class alone, with its traceback")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    return parser


def _all(
    cases: list[tuple[str, int]], options: argparse.Namespace, good: Good, folder: Path
) -> Iterator[tuple[str, int, Ended]]:
    """Run all cases, some at a time, and yield each with how it ended."""
    gc.collect()
    gc.freeze()  # or children would copy what they only look at
    running: dict[int, tuple[str, int, Path]] = {}
    waiting = iter(cases)
    while True:
        while len(running) < options.jobs and (case := next(waiting, None)):
            name, number = case
            place = folder / f"{name}-{number}"
            random = Random(f"{name} {options.seed} {number}")
            running[start(CLASSES[name], random, good, place)] = name, number, place
        if not running:
            return
        child, status = os.wait()
        name, number, place = running.pop(child)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it has started and left
        yield name, number, ended(place, status)
        shutil.rmtree(place, ignore_errors=True)


def _warm(good: Good) -> None:
    """Import, by using it, what the commands import, so that no child has to."""
    here = Path.cwd()
    place = good.root / "warm"
    place.mkdir()
    os.chdir(place)
    for line in _WARM:
        words = shlex.split(line.format(image=good.image, images=good.image.parent))
        words += ["--model", str(good.model if words[0] != "train" else "m")]
        if words[0] not in ("train", "evaluate"):
            words += ["--precision", "fp32"]
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = attempt(Case(line, tuple(words)))
        assert code == 0, f"unclip {line}: {said.getvalue()}"
    os.chdir(here)
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"{threads} threads: a forked child has only one of them"


def _line(name: str, number: int, end: Ended) -> str:
    """A failure in a line: where, what, how it came about, and what was said last."""
    lines = [line for line in end.errors.splitlines() if line.strip()]
    frames = [
        line.split("unclip/")[-1] for line in lines if "/unclip/" in line and " line " in line
    ]
    where = f" [{frames[-1].replace(chr(34), '')}]" if frames else ""
    said = ascii(lines[-1])[1:161] if lines else ""
    return f"{name} {number}: {', '.join(end.faults)}{where} | {end.title[:200]} | {said}"


def _show(name: str, seed: int, number: int, good: Good, folder: Path) -> int:
    """One case again, in this process, with everything that it says."""
    place = folder / "work"
    place.mkdir()
    os.chdir(place)
    case = CLASSES[name](Random(f"{name} {seed} {number}"), Path("."), good)
    words = " ".join(ascii(word[:200]) for word in case.words)
    print(
        f"{ascii(case.title)[1:-1]}\n{f'unclip {words}' if words else 'a Python call'}", flush=True
    )
    os.environ["UNCLIP_TRACEBACK"] = "1"
    code = attempt(case)
    print(f"exit code {code}; left: {', '.join(sorted(map(str, place.iterdir())))}")
    return code


if __name__ == "__main__":
    sys.exit(main())
