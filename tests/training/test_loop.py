"""The loop on a stage small enough to compute by hand, and its workers' end."""

import itertools
import json
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unclip.batch import Batch
from unclip.stages.recipe import Data, Optimiser, Recipe, Training
from unclip.storage.folder import ModelFolder
from unclip.training import checkpoint
from unclip.training.data import TrainingData
from unclip.training.job import Folders, Job
from unclip.training.loop import NotFiniteError, Trainer
from unclip.training.parallel import Alone
from unclip.training.signals import Stopper

ALONE = Alone(torch.device("cpu"))


class Regression:
    """Fits a linear map; `broken` makes the loss of one step infinite."""

    def __init__(self, broken: int = -1, noise: float = 0.0) -> None:
        torch.manual_seed(0)
        self.network = nn.Linear(3, 1)
        self.calls, self.broken, self.noise = 0, broken, noise

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        x = batch["images"].flatten(1)  # (N, 3)
        x = x + self.noise * torch.randn(x.shape, generator=generator)
        loss = ((self.network(x) - x.sum(1, keepdim=True)) ** 2).mean()
        self.calls += 1
        return {"loss": loss * float("inf") if self.calls - 1 == self.broken else loss}

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        assert not self.network.training
        return batch["images"][None].expand(2, -1, -1, 4, 4)

    def save(self, folder: ModelFolder) -> None:
        folder.save("regression", ("unclip", "Regression"), {}, self.network.state_dict())


def data(
    parts: int = 1, closed: list[bool] | None = None
) -> Callable[[int], Generator[Batch, None, None]]:
    """Batches of 8 points, each cut into equal parts."""

    def batches(first: int) -> Generator[Batch, None, None]:
        try:
            for step in itertools.count(first):
                points = torch.randn(8, 3, 1, 1, generator=torch.Generator().manual_seed(step))
                for part in points.chunk(parts):
                    yield {"images": part, "captions": [""] * len(part)}
        finally:
            if closed is not None:
                closed.append(True)

    return batches


def trainer(
    stage: Regression,
    path: Path,
    training: Training,
    batches: Callable[[int], Generator[Batch, None, None]] | None = None,
    example: Batch | None = None,
    resume: bool = False,
    parallel: Alone = ALONE,
) -> Trainer:
    optimiser = Optimiser(learning_rate=0.05, warmup=0, clip=1e9)
    recipe = Recipe(None, Data(), training, optimiser)
    folders = Folders(path / "model", path, resume)
    known = TrainingData(batches or data(), example)
    return Trainer(Job("regression", recipe, folders, stage, known, parallel))


def run(stage: Regression, path: Path, training: Training, **options: Any) -> int:
    return trainer(stage, path, training, **options).run()


def steps(count: int, **options: object) -> Training:
    given = {"batch_size": 8, "preview_every": 0, "precision": "fp32", "ema": 0.9, **options}
    return Training(steps=count, **given)  # type: ignore[arg-type]


def test_it_learns_and_publishes_the_average(tmp_path: Path) -> None:
    stage = Regression()
    assert run(stage, tmp_path, steps(200)) == 0
    assert torch.allclose(stage.network.weight, torch.ones(1, 3), atol=0.05)
    published = next((tmp_path / "model" / "regression").glob("*.safetensors"))
    from safetensors.torch import load_file

    tensors = load_file(checkpoint.checkpoints(tmp_path / "checkpoints")[-1])
    assert torch.equal(load_file(published)["weight"], tensors["ema.weight"])
    assert torch.equal(stage.network.weight, tensors["network.weight"])
    assert not torch.equal(tensors["ema.weight"], tensors["network.weight"])


def test_accumulated_parts_equal_the_whole_batch(tmp_path: Path) -> None:
    whole, parts = Regression(), Regression()
    run(whole, tmp_path / "whole", steps(20))
    run(parts, tmp_path / "parts", steps(20, accumulation=4), batches=data(4))
    assert torch.allclose(whole.network.weight, parts.network.weight, atol=1e-6)


def test_runs_repeat_bit_for_bit_and_seeds_differ(tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        stage = Regression(noise=0.1)
        torch.rand(3)  # the global stream plays no part
        run(stage, tmp_path / name, steps(5, seed=seed))
        weights.append(stage.network.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    stage = Regression(broken=7)
    with pytest.raises(NotFiniteError, match=r"not finite at step 7.*learning-rate.*fp32"):
        run(stage, tmp_path, steps(20, checkpoint_every=3))
    newest = checkpoint.checkpoints(tmp_path / "checkpoints")[-1]
    assert newest.stem == "step-00000006"
    again = Regression()
    assert run(again, tmp_path, steps(20), resume=True) == 0
    assert torch.isfinite(again.network.weight).all()


def test_batches_are_closed_however_the_run_ends(tmp_path: Path) -> None:
    closed: list[bool] = []
    run(Regression(), tmp_path / "a", steps(2), batches=data(closed=closed))
    with pytest.raises(NotFiniteError):
        run(Regression(broken=1), tmp_path / "b", steps(3), batches=data(closed=closed))
    assert closed == [True, True]


def test_workers_end_with_the_run(tmp_path: Path) -> None:
    import multiprocessing

    from tests.tiny import tiny_recipe
    from unclip.stages.catalogue import STAGES
    from unclip.training.job import Folders
    from unclip.training.start import start

    recipe = tiny_recipe("clip", training={"steps": 1}, data={"workers": 1})
    start(STAGES["clip"], recipe, Folders(tmp_path / "model", tmp_path / "run"), "cpu")
    deadline = time.monotonic() + 5
    while multiprocessing.active_children():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_metrics_and_previews(tmp_path: Path) -> None:
    from PIL import Image

    example = next(data()(0))
    run(Regression(), tmp_path, steps(7, log_every=3, preview_every=2), example=example)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 7]
    assert {"loss", "learning_rate", "gradient_norm", "images_per_second"} <= set(lines[0])
    with Image.open(tmp_path / "previews" / "step-00000006.png") as picture:
        assert picture.width > 8 * 128
        assert 2 * 128 < picture.height < 3 * 128
    assert len(list((tmp_path / "previews").iterdir())) == 3


class Told(Alone):
    """Another process is asked to stop before the third step is begun."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.told = iter([0, 0, 0, 15])  # the precision, then each step

    def agreed(self, number: int) -> int:
        return next(self.told)


def test_a_signal_to_another_process_is_reported_by_all(tmp_path: Path) -> None:
    assert run(Regression(), tmp_path, steps(9), parallel=Told()) == 15
    assert [file.stem for file in checkpoint.checkpoints(tmp_path / "checkpoints")] == [
        "step-00000002"
    ]


def test_signals_are_given_back(tmp_path: Path) -> None:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with Stopper() as stopper:
        signal.raise_signal(signal.SIGTERM)
        assert stopper.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_stopping_is_said_at_once_and_where_the_run_stands_at_the_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import signal

    class Interrupted(Regression):
        def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
            signal.raise_signal(signal.SIGINT)
            assert "stopping after this step" in capfd.readouterr().err or self.told
            self.told = True
            return super().loss(batch, generator)

        told = False

    assert run(Interrupted(), tmp_path, steps(9)) == signal.SIGINT
    assert capfd.readouterr().out.endswith("checkpoint at step 1 of 9\n")


def test_the_first_step_is_said_and_not_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(Regression(), tmp_path, steps(6, log_every=3))
    said = [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert said == ["1/6", "3/6", "6/6"]
    assert [line["step"] for line in logged(tmp_path)] == [3, 6]


def test_logged_values_are_means_over_the_parts(tmp_path: Path) -> None:
    whole, parts = Regression(), Regression()
    run(whole, tmp_path / "whole", steps(2, log_every=1))
    run(parts, tmp_path / "parts", steps(2, log_every=1, accumulation=4), batches=data(4))
    for key in ("loss", "gradient_norm"):
        expected = [line[key] for line in logged(tmp_path / "whole")]
        assert [line[key] for line in logged(tmp_path / "parts")] == pytest.approx(expected)


def logged(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_clock_that_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    run(Regression(), tmp_path, steps(2, log_every=1))
    lines = logged(tmp_path)
    assert [line["step"] for line in lines] == [1, 2]
    assert all("images_per_second" not in line for line in lines)


def test_fewer_steps_than_there_are_is_refused(tmp_path: Path) -> None:
    run(Regression(), tmp_path, steps(6))
    with pytest.raises(ValueError, match=r"at step 6 already; training\.steps is 2, and must be 6"):
        trainer(Regression(), tmp_path, steps(2), resume=True)  # before anything is written


def test_a_preview_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    def cut(self: Image.Image, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", cut)
    with pytest.raises(ValueError, match=r"cannot write .*step-00000002\.png: .*No space left"):
        run(Regression(), tmp_path, steps(2, preview_every=2), example=next(data()(0)))
    assert not list((tmp_path / "previews").iterdir())


class Half(Regression):
    """Saves a component and then fails at the next."""

    def save(self, folder: ModelFolder) -> None:
        super().save(folder)
        raise ValueError("the other one is broken")


def test_what_a_stage_saves_is_published_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the other one is broken"):
        run(Half(), tmp_path, steps(1))
    assert not ModelFolder(tmp_path / "model").has("regression")
