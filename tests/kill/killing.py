"""Trainings and writes that are killed at moments drawn by seeds, against undisturbed ones.

    make kill-test N=50

A trial trains a tiny stage into a model, is killed by SIGKILL a few times (half of them after a
random time, half at a random access to the disk, publishing included), is resumed each time, and
must end with the same bits: checkpoint, metrics, recipe and model folder. After every kill the
model must open whole, as the old or the new one. Every third trial kills a command that writes
images or embeddings instead: what can be seen of its output must be whole.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.tiny import tiny_recipe
from unclip.files import read_facts, read_safetensors
from unclip.interfaces.cli import main as unclip
from unclip.pipeline.pipeline import Pipeline
from unclip.stages.catalogue import STAGES
from unclip.storage.folder import ModelFolder
from unclip.training.checkpoint import checkpoints
from unclip.training.job import Folders
from unclip.training.report import OF_THE_CLOCK
from unclip.training.start import start

KILLS = 3  # a trial
_TRAINED = ("decoder", "clip", "prior")
_FAST = ["--prior-steps", "1", "--decoder-steps", "1", "--precision", "fp32"]


class Bench:
    """A folder to work in, with a tiny trained model and what undisturbed runs give.

    Args:
        place: an empty folder.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.model = place / "model"
        self.undisturbed: dict[str, tuple[dict[str, bytes], int, float]] = {}
        for stage in ("clip", "prior", "decoder"):
            _in_fork(lambda stage=stage: self._train(stage, self.model, place / stage, 1))  # type: ignore[misc]

    def trial(self, seed: int) -> list[str]:
        """What was wrong in the trial of a seed; nothing, one hopes."""
        draw = random.Random(seed)
        folder = self.place / f"trial-{seed}"
        folder.mkdir()
        try:
            if seed % 3 == 2:
                return self._writing(draw, folder)
            return self._training(_TRAINED[seed // 3 % len(_TRAINED)], draw, folder)
        finally:
            shutil.rmtree(folder)

    def _train(self, stage: str, model: Path, run: Path, steps: int = 6) -> None:
        resume = bool(checkpoints(run / "checkpoints"))
        recipe = tiny_recipe(
            stage,
            training={"steps": steps, "batch_size": 4, "checkpoint_every": 2, "log_every": 1},
        )
        where = Folders(model, run, resume, overwrite=not resume)
        assert start(STAGES[stage], recipe, where, "cpu") == 0

    def _into(self, stage: str, folder: Path) -> Callable[[], None]:
        """A training into a copy of the model; CLIP's into a folder of its own."""
        if stage != "clip":
            shutil.copytree(self.model, folder / "model")
        return lambda: self._train(stage, folder / "model", folder / "run")

    def _expected(self, stage: str) -> tuple[dict[str, bytes], int, float]:
        """Files of an undisturbed run, its accesses to the disk and its seconds."""
        if stage not in self.undisturbed:
            folder = self.place / f"undisturbed-{stage}"
            folder.mkdir()
            began = time.monotonic()
            accesses = _in_fork(self._into(stage, folder), folder)
            self.undisturbed[stage] = (results(folder), accesses, time.monotonic() - began)
        return self.undisturbed[stage]

    def _training(self, stage: str, draw: random.Random, folder: Path) -> list[str]:
        expected, accesses, seconds = self._expected(stage)
        train, wrong = self._into(stage, folder), []
        for _ in range(KILLS):
            if draw.random() < 0.5:
                _in_fork(train, folder, access=draw.randrange(accesses))
            else:
                _in_fork(train, folder, after=draw.random() * seconds)
            wrong += _opens(stage, folder / "model")
        _in_fork(train, folder)
        found = results(folder)
        if found != expected:
            names = {*found, *expected}
            wrong += [f"{x} differs" for x in sorted(names) if found.get(x) != expected.get(x)]
        return [f"{stage}: {text}" for text in wrong]

    def _writing(self, draw: random.Random, folder: Path) -> list[str]:
        words = draw.choice(
            (
                ["generate", "a red circle", "a blue star", "-n", "2", *_FAST],
                ["vary", str(folder / "in.png"), "-n", "3", *_FAST[2:]],
                ["embed", "a red circle", "a blue star", "--precision", "fp32"],
            )
        )
        Image.new("RGB", (20, 30), (200, 0, 0)).save(folder / "in.png")
        out = folder / "out" / ("e.npy" if words[0] == "embed" else "")
        words += ["--model", str(self.model), "-o", str(out)]
        out.parent.mkdir(exist_ok=True)
        wrong: list[str] = []
        for _ in range(KILLS):
            _in_fork(lambda: _command(words), folder / "out", access=draw.randrange(24))
            wrong += _whole(folder / "out")
        _in_fork(lambda: _command(words), folder / "out")
        if not list((folder / "out").iterdir()):
            wrong.append("nothing was written at last")
        return [f"{words[0]}: {text}" for text in wrong + _whole(folder / "out")]


def results(folder: Path) -> dict[str, bytes]:
    """What a run leaves, by name: all but speeds, pictures and whose the run is."""
    skipped = ("tensorboard", "run.json", "lock", "metrics.jsonl")
    files = {
        str(path.relative_to(folder)): _content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not set(path.relative_to(folder).parts) & set(skipped)
    }
    lines = [json.loads(x) for x in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for key in OF_THE_CLOCK:
            line.pop(key, None)
    return {**files, "metrics": json.dumps(lines).encode()}


def _content(path: Path) -> bytes:
    """A file's bytes; of a checkpoint without the order of its facts, which is no fixed one."""
    if path.parent.name != "checkpoints":
        return path.read_bytes()
    facts = json.dumps(read_facts(path), sort_keys=True).encode()
    tensors = read_safetensors(path)
    return facts + b"".join(bytes(tensors[key].view(-1).numpy()) for key in sorted(tensors))


def _opens(stage: str, path: Path) -> list[str]:
    """The model is whole: nothing of CLIP or all of it, and old or new stages that fit."""
    try:
        if stage != "clip":
            Pipeline.from_pretrained(path, dtype="fp32", device="cpu")
            return []
        there = {name for name in STAGES["clip"].components if ModelFolder(path).has(name)}
        return [] if len(there) in (0, 4) else [f"only {', '.join(sorted(there))} is there"]
    except ValueError as error:
        return [f"after a kill: {error}"]


def _whole(folder: Path) -> list[str]:
    wrong = []
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue  # what nobody sees; the next writer clears it
        try:
            if path.suffix == ".npy":
                np.load(path, allow_pickle=False)
            else:
                with Image.open(path) as image:
                    image.load()
        except (OSError, ValueError, SyntaxError) as error:
            wrong.append(f"{path.name} is not whole: {error}")
    return wrong


def _command(words: list[str]) -> None:
    assert unclip(words) == 0


def _in_fork(
    work: Callable[[], None],
    place: Path | None = None,
    access: int | None = None,
    after: float | None = None,
) -> int:
    """Do `work` in a process that is killed at an access to `place`, or after some seconds.

    Returns:
        How often it accessed `place`.

    Raises:
        RuntimeError: it ended in another way than by that kill, or well.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 1
        try:
            count = _watch(str(place), access)
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.fsync = lambda _: None  # which only a power cut makes a difference to
            work()
            os.write(writer, str(count[0]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a process ended with {code}")
    return int(said or 0)


def _watch(place: str, access: int | None) -> list[int]:
    """Count accesses to `place`, and die at the one that is numbered `access`."""
    count = [0]

    def see(event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" and not event.startswith(("os.", "shutil.", "tempfile.")):
            return
        if any(place in str(argument) for argument in arguments):
            if count[0] == access:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1

    sys.addaudithook(see)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill trainings and writes; see the docstring.")
    parser.add_argument("-n", type=int, default=50, help="trials")
    parser.add_argument("--first", type=int, default=0, help="seed of the first of them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place))
        for seed in range(options.first, options.first + options.n):
            wrong = bench.trial(seed)
            failed += bool(wrong)
            for text in wrong:
                print(f"seed {seed}: {text}", flush=True)
    kills = options.n * KILLS
    print(f"{options.n} tried with {kills} kills, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
