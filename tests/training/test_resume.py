"""Runs that are killed, stopped, starved of disk or fed other data, and go on or say why not."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkProcess as Process
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.machines import PLAIN, WITH_BF16
from tests.tiny import tiny_recipe
from unclip.config import dump_toml, to_mapping
from unclip.stages.catalogue import STAGES
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.recipe import Recipe
from unclip.storage.folder import ModelFolder
from unclip.training import checkpoint, muon
from unclip.training.job import Folders
from unclip.training.start import start

PROGRAM = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from unclip.stages.catalogue import STAGES
from unclip.training.job import Folders
from unclip.stages.spec import load_recipe
from unclip.training.start import start
name, recipe, model, run = sys.argv[1:5]
spec = STAGES[name]
where = Folders(Path(model), Path(run), resume=True)
sys.exit(start(spec, load_recipe(spec, Path(recipe)), where, "cpu"))
"""


class Trainer:
    """Training in a process of its own, for tests that end it."""

    def __init__(self, stage: str, recipe: Recipe[Any], model: Path, run: Path) -> None:
        self.stage, self.recipe, self.model, self.run = stage, recipe, model, run

    def start(self, resume: bool = False) -> Process:
        process = multiprocessing.get_context("fork").Process(target=self._train, args=(resume,))
        process.start()
        return process

    def _train(self, resume: bool) -> None:
        where = Folders(self.model, self.run, resume)
        sys.exit(start(STAGES[self.stage], self.recipe, where, "cpu"))

    def reaches(self, process: Process, step: int) -> None:
        deadline = time.monotonic() + 60
        while process.is_alive() and self.step() < step:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def step(self) -> int:
        files = checkpoint.checkpoints(self.run / "checkpoints")
        return int(files[-1].stem.removeprefix("step-")) if files else 0

    def newest(self) -> Path:
        return checkpoint.checkpoints(self.run / "checkpoints")[-1]


def ended(process: Process, seconds: float = 60) -> int | None:
    process.join(seconds)
    return process.exitcode


def in_process(
    stage: str, recipe: Recipe[Any], model: Path, run: Path, resume: bool = False
) -> dict[str, torch.Tensor]:
    """Train here; the newest checkpoint's tensors."""
    assert start(STAGES[stage], recipe, Folders(model, run, resume), "cpu") == 0
    newest = load_file(checkpoint.checkpoints(run / "checkpoints")[-1])
    return {key: tensor.clone() for key, tensor in newest.items()}  # not mapped from the file


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def logged(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model folder that has a CLIP and nothing else."""
    return only_clip(tiny_model, tmp_path / "model")


@pytest.fixture
def other_model(tiny_model: Path, tmp_path: Path) -> Path:
    return only_clip(tiny_model, tmp_path / "other-model")


def only_clip(model: Path, path: Path) -> Path:
    FrozenCLIP.load(ModelFolder(model)).save(ModelFolder(path))
    return path


@pytest.mark.parametrize(("stage", "workers"), [("clip", 0), ("decoder", 1)])
def test_killed_at_random_moments_it_ends_with_the_same_bits(
    stage: str, workers: int, tmp_path: Path, model: Path, other_model: Path
) -> None:
    last = 30 if stage == "clip" else 15
    recipe = tiny_recipe(
        stage,
        training={
            "steps": last,
            "checkpoint_every": 1,
            "log_every": 1,
            "validate_every": 4,
            "batch_size": 4,
            "accumulation": 1 if stage == "clip" else 2,
        },
        data={"workers": workers},
        optimiser={"kind": "muon" if stage == "clip" else "adamw"},
    )
    if stage == "clip":
        model, other_model = tmp_path / "clip", tmp_path / "other-clip"
    trainer = Trainer(stage, recipe, model, tmp_path / "run")
    draw = random.Random(0)
    for kill in range(3):
        process = trainer.start(resume=kill > 0)
        trainer.reaches(process, trainer.step() + draw.randint(1, last // 4))
        time.sleep(draw.random() * 0.05)
        process.kill()
        assert ended(process) == -signal.SIGKILL
    assert ended(trainer.start(resume=True)) == 0

    whole = in_process(stage, recipe, other_model, tmp_path / "whole")
    same(load_file(trainer.newest()), whole)
    assert trainer.step() == last
    assert logged(trainer.run) == logged(tmp_path / "whole") == list(range(1, last + 1))
    for folder in (model, trainer.run, trainer.run / "checkpoints"):
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 0)])
def test_a_signal_makes_a_checkpoint_and_stops(
    number: signal.Signals, workers: int, tmp_path: Path
) -> None:
    training = {"steps": 5000, "checkpoint_every": 5000, "log_every": 5}
    recipe = tiny_recipe("clip", training=training, data={"workers": workers})
    trainer = Trainer("clip", recipe, tmp_path / "model", tmp_path / "run")
    process = trainer.start()
    metrics = trainer.run / "metrics.jsonl"
    while process.is_alive() and not metrics.exists():
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, number)
    assert ended(process, 30) == number
    assert 5 <= trainer.step() < 5000
    assert ModelFolder(trainer.model).has("text_encoder")


def test_another_interpreter_continues_with_the_same_bits(tmp_path: Path) -> None:
    constant = {"decay": 0.0}
    whole = tiny_recipe("clip", training={"steps": 6}, optimiser=constant)
    half = tiny_recipe("clip", training={"steps": 3}, optimiser=constant)
    expected = in_process("clip", whole, tmp_path / "a", tmp_path / "run-a")
    in_process("clip", half, tmp_path / "b", tmp_path / "run-b")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(dump_toml({"stage": "clip", **to_mapping(whole)}))
    words = ["clip", recipe, tmp_path / "b", tmp_path / "run-b"]
    subprocess.run([sys.executable, "-c", PROGRAM, *map(str, words)], check=True, timeout=300)
    same(load_file(tmp_path / "run-b" / "checkpoints" / "step-00000006.safetensors"), expected)


def test_a_stopped_run_continues_where_it_was(tmp_path: Path) -> None:
    constant = {"decay": 0.0}  # a schedule that does not know the number of steps
    whole = tiny_recipe("clip", training={"steps": 6}, optimiser=constant)
    expected = in_process("clip", whole, tmp_path / "a", tmp_path / "run-a")
    half = tiny_recipe("clip", training={"steps": 4}, optimiser=constant)
    in_process("clip", half, tmp_path / "b", tmp_path / "run-b")
    same(in_process("clip", whole, tmp_path / "b", tmp_path / "run-b", resume=True), expected)


def test_a_complete_run_is_published_again(tmp_path: Path) -> None:
    recipe, model = tiny_recipe("clip"), tmp_path / "model"
    expected = in_process("clip", recipe, model, tmp_path / "run")
    (model / "model_index.json").unlink()  # as if killed between checkpoint and publishing
    same(in_process("clip", recipe, model, tmp_path / "run", resume=True), expected)
    assert ModelFolder(model).has("image_encoder")


def test_resumed_runs_keep_the_precision_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unclip.device import precision

    used = []
    orthogonalised = muon.orthogonalised

    def noted(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        used.append(dtype)
        return orthogonalised(matrices, dtype)

    monkeypatch.setattr(muon, "orthogonalised", noted)
    monkeypatch.setattr(precision, "instructions", lambda: WITH_BF16)

    def train(run: str, steps: int, wanted: str, resume: bool = False) -> str:
        recipe = tiny_recipe(
            "clip", optimiser={"kind": "muon"}, training={"steps": steps, "precision": wanted}
        )
        in_process("clip", recipe, tmp_path / run / "model", tmp_path / run, resume=resume)
        return capsys.readouterr().out

    monkeypatch.setattr(precision, "fastest_dtype", lambda _: torch.bfloat16)
    assert "which this CPU emulates" not in train("first", 2, "auto")
    monkeypatch.setattr(precision, "fastest_dtype", lambda _: torch.float32)
    monkeypatch.setattr(precision, "instructions", lambda: PLAIN)  # on another machine
    said = train("first", 3, "auto", resume=True)
    assert "from step 2 to 3 in bf16, which this CPU emulates" in said
    assert set(used) == {torch.bfloat16}  # Muon goes on in it as well
    assert "in fp32\n" in train("second", 1, "fp32")
    assert used[-1] == torch.float32


def test_other_data_are_refused(tmp_path: Path) -> None:
    in_process("clip", tiny_recipe("clip"), tmp_path / "model", tmp_path / "run")
    other = tiny_recipe("clip", data={"world": {"max_objects": 2}}, training={"steps": 9})
    with pytest.raises(ValueError, match=r"other data than is given now.*--overwrite"):
        in_process("clip", other, tmp_path / "model", tmp_path / "run", resume=True)


def test_a_refused_resume_leaves_the_runs_recipe_alone(tmp_path: Path) -> None:
    in_process("clip", tiny_recipe("clip"), tmp_path / "model", tmp_path / "run")
    before = (tmp_path / "run" / "recipe.toml").read_text()
    other = tiny_recipe("clip", data={"world": {"seed": 5}})
    with pytest.raises(ValueError, match="other data"):
        in_process("clip", other, tmp_path / "model", tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "recipe.toml").read_text() == before


def test_another_optimiser_is_refused(tmp_path: Path) -> None:
    muon = tiny_recipe("clip", optimiser={"kind": "muon"})
    in_process("clip", muon, tmp_path / "model", tmp_path / "run")
    with pytest.raises(ValueError, match=r"has the moments of muon; .*--optimiser\.kind muon"):
        in_process("clip", tiny_recipe("clip"), tmp_path / "model", tmp_path / "run", resume=True)


def test_a_larger_network_is_refused(tmp_path: Path, model: Path) -> None:
    larger = tiny_recipe("prior", network={"num_layers": 2})
    in_process("prior", larger, model, tmp_path / "run")
    with pytest.raises(ValueError, match=r"another network: it has a tensor 'ema.* besides"):
        in_process("prior", tiny_recipe("prior"), model, tmp_path / "run", resume=True)


def test_another_network_is_refused_by_the_tensor(tmp_path: Path) -> None:
    in_process("clip", tiny_recipe("clip"), tmp_path / "model", tmp_path / "run")
    other = tiny_recipe("clip", network={"context_length": 30})
    with pytest.raises(ValueError, match=r"another network.*position_embedding.*24.*30"):
        in_process("clip", other, tmp_path / "model", tmp_path / "run", resume=True)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to resume"):
        in_process("clip", tiny_recipe("clip"), tmp_path / "m", tmp_path / "run", resume=True)


def test_a_truncated_checkpoint_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe("clip")
    expected = in_process("clip", recipe, tmp_path / "model", tmp_path / "run")
    older, newest = checkpoint.checkpoints(tmp_path / "run" / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-100])
    same(in_process("clip", recipe, tmp_path / "model", tmp_path / "run", True), expected)
    assert f"{newest.name} is not a whole safetensors file" in capsys.readouterr().out
    for file in (older, newest):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        in_process("clip", recipe, tmp_path / "model", tmp_path / "run", resume=True)


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    recipe = tiny_recipe("clip")
    in_process("clip", recipe, tmp_path / "model", tmp_path / "run")
    before = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}

    def full(tensors: object, file: Path, facts: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    more = tiny_recipe("clip", training={"steps": 9})
    with pytest.raises(ValueError, match=r"cannot write .*No space left on device"):
        in_process("clip", more, tmp_path / "model", tmp_path / "run", resume=True)
    after = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    run = tmp_path / "run"
    kept = {p for p in before if not p.is_relative_to(run) or p.parent.name == "checkpoints"}
    assert all(after[p] == before[p] for p in kept)
    assert all(p in before or "tensorboard" in p.parts for p in after)


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("may not mount a small disk here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_really_full_disk(tmp_path: Path, small_disk: Path) -> None:
    recipe = tiny_recipe("clip", training={"checkpoint_every": 1})
    with pytest.raises(ValueError, match=r"cannot write .*No space left on device"):
        in_process("clip", recipe, tmp_path / "model", small_disk / "run")
    folder = small_disk / "run" / "checkpoints"
    assert all(load_file(file) for file in checkpoint.checkpoints(folder))
    assert all(file.name[0] != "." for file in folder.iterdir())


def test_overwrite_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    recipe, where = tiny_recipe("clip"), Folders(tmp_path / "model", tmp_path / "run")
    start(STAGES["clip"], recipe, where, "cpu")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="already has a text_encoder; add --overwrite"):
        start(STAGES["clip"], recipe, where, "cpu")
    again = Folders(where.model, where.run, overwrite=True)
    short = tiny_recipe("clip", training={"steps": 2})
    start(STAGES["clip"], short, again, "cpu")
    assert len(checkpoint.checkpoints(where.run / "checkpoints")) == 1
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_overwrite_deletes_nothing_where_the_new_run_cannot_begin(tmp_path: Path) -> None:
    in_process("clip", tiny_recipe("clip"), tmp_path / "model", tmp_path / "run")
    before = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    again = Folders(tmp_path / "model", tmp_path / "run", overwrite=True)
    missing = tiny_recipe("clip", data={"source": str(tmp_path / "nowhere")})
    with pytest.raises(ValueError, match="nowhere"):
        start(STAGES["clip"], missing, again, "cpu")
    assert before == {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}


def test_checkpoints_hold_everything_and_only_two_stay(tmp_path: Path) -> None:
    recipe = tiny_recipe("clip")
    tensors = in_process("clip", recipe, tmp_path / "model", tmp_path / "run")
    names = [file.name for file in checkpoint.checkpoints(tmp_path / "run" / "checkpoints")]
    assert names == ["step-00000004.safetensors", "step-00000006.safetensors"]
    kinds = {key.split(".")[0] for key in tensors}
    assert kinds == {"network", "ema", "step", "exp_avg", "exp_avg_sq"}


def test_checkpoints_from_before_facts_were_kept_still_resume(tmp_path: Path) -> None:
    recipe = tiny_recipe("clip")
    expected = in_process("clip", recipe, tmp_path / "model", tmp_path / "run")
    older, newest = checkpoint.checkpoints(tmp_path / "run" / "checkpoints")
    newest.unlink()
    save_file(load_file(older), older, {"step": "4"})
    same(in_process("clip", recipe, tmp_path / "model", tmp_path / "run", True), expected)


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0x40
    file.write_bytes(content)


@pytest.mark.parametrize("where", ["tensor", "last", "fact"])
def test_a_flipped_bit_is_passed_over(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe("clip")
    expected = in_process("clip", recipe, tmp_path / "model", tmp_path / "run")
    older, newest = checkpoint.checkpoints(tmp_path / "run" / "checkpoints")
    content = newest.read_bytes()
    step = content.index(b'"precision":"fp32"') + 14
    flip(newest, {"tensor": len(content) // 2, "last": -1, "fact": step}[where])
    same(in_process("clip", recipe, tmp_path / "model", tmp_path / "run", True), expected)
    assert "is damaged: its" in capsys.readouterr().out
    for file in (older, newest):
        flip(file, -1)
    with pytest.raises(ValueError, match=r"is damaged: .* no sound checkpoint before it"):
        in_process("clip", recipe, tmp_path / "model", tmp_path / "run", resume=True)


def test_a_run_is_resumed_with_the_clip_that_it_began_with(tmp_path: Path, model: Path) -> None:
    in_process("prior", tiny_recipe("prior"), model, tmp_path / "run")
    clip = Folders(model, tmp_path / "clip-run", overwrite=True)
    start(STAGES["clip"], tiny_recipe("clip", training={"steps": 1}), clip, "cpu")
    with pytest.raises(ValueError, match="trained with another text_encoder than the model has"):
        in_process("prior", tiny_recipe("prior"), model, tmp_path / "run", resume=True)


def test_a_clip_that_others_depend_on_says_so(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_process("prior", tiny_recipe("prior"), model, tmp_path / "run")
    assert "will not fit" not in capsys.readouterr().out
    clip = Folders(model, tmp_path / "clip-run", overwrite=True)
    start(STAGES["clip"], tiny_recipe("clip", training={"steps": 1}), clip, "cpu")
    assert "prior of" in capsys.readouterr().out


def test_one_process_at_a_time(tmp_path: Path) -> None:
    recipe = tiny_recipe("clip", training={"steps": 5000, "checkpoint_every": 1})
    trainer = Trainer("clip", recipe, tmp_path / "model", tmp_path / "run")
    process = trainer.start()
    trainer.reaches(process, 1)
    try:
        for where in (
            Folders(tmp_path / "model", tmp_path / "run", resume=True),
            Folders(tmp_path / "model", tmp_path / "run", overwrite=True),
        ):
            with pytest.raises(ValueError, match=r"another process is training in .*--run"):
                start(STAGES["clip"], recipe, where, "cpu")
    finally:
        process.kill()
        ended(process)
    short = tiny_recipe("clip", training={"steps": 1})
    again = Folders(tmp_path / "model", tmp_path / "run", overwrite=True)
    assert start(STAGES["clip"], short, again, "cpu") == 0
