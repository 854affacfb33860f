"""A run goes on in another number of processes: the same samples, the same losses to rounding.

In the same number it ends with the same bits, whichever process is killed, and when.
"""

import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing.context import ForkProcess as Process
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import newest_checkpoint
from tests.training.runs import free_port
from unclip.batch import Batch
from unclip.config import Checked, Width
from unclip.data.captions import Report
from unclip.data.sources import Sample
from unclip.draws import normal
from unclip.networks.layers import RowDropout
from unclip.stages.recipe import Data, Optimiser, Recipe, Training
from unclip.stages.spec import BuildContext, StageSpec
from unclip.storage.folder import ModelFolder
from unclip.training.checkpoint import checkpoints, step_of
from unclip.training.job import Folders
from unclip.training.start import start

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform != "linux", reason="needs gloo and forks"
)


class Colours:
    """37 images of one colour each; epochs end within batches."""

    endless = False

    def __len__(self) -> int:
        return 37

    def __getitem__(self, index: int) -> Sample:
        colour = torch.tensor([index % 37 * 6, index % 5 * 50, index // 37 % 9 * 20])
        image = colour.to(torch.uint8)[:, None, None].expand(3, 8, 8).contiguous()
        return {"image": image, "caption": self.caption(index)}

    def caption(self, index: int) -> str:
        return f"colour {index % 37}"

    def captions(self) -> "map[str]":
        return map(self.caption, range(37))

    def check(self, decode: bool = False) -> Report:
        return Report("colours", images=37, usable=37, captions=37)

    def fingerprint(self) -> str:
        return "colours"


@dataclass(frozen=True)
class Settings(Checked):
    """What is chosen of the network."""

    width: Width = 16  # of its hidden features


class Recognises:
    """Learns to see the colour of noised images, through dropout."""

    def __init__(self, settings: Settings) -> None:
        self.network: nn.Module = nn.Sequential(
            nn.Linear(192, settings.width), RowDropout(0.2), nn.Linear(settings.width, 3)
        )

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        images = batch["images"]
        noised = images + 0.3 * normal(*images.shape, generator=generator)
        answers: Tensor = self.network(noised.flatten(1))
        return {"loss": (answers - images[:, :, 0, 0]).square().mean()}

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        return None

    def save(self, folder: ModelFolder) -> None:
        folder.save("toy", ("tests", "Toy"), {"config.json": {}}, self.network.state_dict())


def _build(settings: Settings, context: BuildContext) -> Recognises:
    return Recognises(settings)


SPEC = StageSpec(
    "toy",
    Recipe(
        Settings(),
        Data(size=8, workers=0),
        Training(
            steps=50, batch_size=12, accumulation=2, log_every=1, log_samples=True,
            checkpoint_every=3, preview_every=0, precision="fp32", ema=0.9, loggers=(),
        ),
        Optimiser(learning_rate=0.01, warmup=5, eps=1e-4),
    ),
    {"toy": ("Toy",)},
    _build,
    source=lambda recipe: Colours(),
)  # fmt: skip


def begin(
    processes: int, place: Path, resume: bool = False, until: int | None = None, shard: bool = False
) -> list[Process]:
    """Train in so many processes, as torchrun starts them."""
    port, training = free_port(), replace(SPEC.recipe.training, shard=shard)
    recipe = replace(SPEC.recipe, training=training)

    def work(rank: int) -> None:
        os.environ.update(
            RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_RANK=str(rank),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip
        sys.stdout = (place / f"said-{rank}").open("w", buffering=1)
        folders = Folders(place / "model", place / "run", resume)
        try:
            sys.exit(start(SPEC, recipe, folders, "cpu", until))
        except ValueError as error:
            print(error, flush=True)
            sys.exit(2)

    place.mkdir(exist_ok=True)
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=work, args=(rank,)) for rank in range(processes)]
    for process in running:
        process.start()
    return running


def train(processes: int, place: Path, **options: Any) -> None:
    running = begin(processes, place, **options)
    for process in running:
        process.join(200)
    assert [process.exitcode for process in running] == [0] * processes


def lines(place: Path, name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (place / "run" / name).read_text().splitlines()]


def losses(place: Path) -> list[object]:
    return [line["loss"] for line in lines(place, "metrics.jsonl")]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs of one, two and three processes that nobody interrupted."""
    import unclip.training.checkpoint_storage
    import unclip.training.sharded  # noqa: F401  once for all processes, which are forks

    places = {number: tmp_path_factory.mktemp(f"unbroken-{number}") for number in (1, 2, 3)}
    for number, place in places.items():
        train(number, place)
    return places


def test_any_number_of_processes_learns_the_same_from_the_same(unbroken: dict[int, Path]) -> None:
    one = lines(unbroken[1], "samples.jsonl")
    assert [line["step"] for line in one] == list(range(1, 51))
    assert all(len(line["samples"]) == 12 for line in one)  # type: ignore[arg-type]
    shown = [number for line in one for number in line["samples"]]  # type: ignore[attr-defined]
    assert sorted(shown[:37]) == list(range(37))  # an epoch
    for number in (2, 3):
        assert lines(unbroken[number], "samples.jsonl") == one
        assert losses(unbroken[number]) == pytest.approx(losses(unbroken[1]), rel=1e-4)


def test_a_run_goes_on_in_another_number_of_processes(
    unbroken: dict[int, Path], tmp_path: Path
) -> None:
    train(2, tmp_path, until=11)
    train(1, tmp_path, resume=True, until=20)
    train(3, tmp_path, resume=True, until=37, shard=True)
    train(2, tmp_path, resume=True)
    assert lines(tmp_path, "samples.jsonl") == lines(unbroken[1], "samples.jsonl")
    assert losses(tmp_path) == pytest.approx(losses(unbroken[1]), rel=1e-4)
    found, expected = newest_checkpoint(tmp_path / "run"), newest_checkpoint(unbroken[1] / "run")
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)


def test_whichever_process_is_killed_and_when_it_ends_with_the_same_bits(
    unbroken: dict[int, Path], tmp_path: Path
) -> None:
    draw = random.Random(0)
    for kill in range(10):
        wanted = newest(tmp_path) + draw.randint(1, 4)
        running = begin(2, tmp_path, resume=kill > 0)
        while newest(tmp_path) < wanted and all(process.is_alive() for process in running):
            time.sleep(0.002)
        time.sleep(0.05 * draw.random())
        victim = draw.randrange(2)
        running[victim].kill()
        for process in running:  # nobody is left waiting
            process.join(60)
        assert running[victim].exitcode in (-signal.SIGKILL, 0)
        if running[victim].exitcode:
            other = 1 - victim
            said = (tmp_path / f"said-{other}").read_text()
            assert running[other].exitcode in (0, 2), said
            if running[other].exitcode:
                assert re.search("another process of this run has ended.*--resume", said)
    train(2, tmp_path, resume=True)
    assert lines(tmp_path, "samples.jsonl") == lines(unbroken[2], "samples.jsonl")
    assert losses(tmp_path) == losses(unbroken[2])
    found, expected = newest_checkpoint(tmp_path / "run"), newest_checkpoint(unbroken[2] / "run")
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert not [
        path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name[0] == "."
    ]


def newest(place: Path) -> int:
    """Step of a run's newest checkpoint."""
    return max(map(step_of, checkpoints(place / "run" / "checkpoints")), default=0)


def test_a_batch_that_does_not_split_is_refused_before_training(tmp_path: Path) -> None:
    running = begin(4, tmp_path)
    for process in running:
        process.join(60)
    assert [process.exitcode for process in running] == [2] * 4
    assert (
        "training.batch_size 12 in 2 parts does not split evenly over 4 processes; take 1 or 2 or "
        "3 or 6 of them, or a batch_size of 8 or 16"
    ) in (tmp_path / "said-0").read_text()
    assert not (tmp_path / "run").exists()
