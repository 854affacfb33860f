"""Whose a run's folder is: one stage's, one model's, one process's."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from unclip.training.run import check_owner, held, owner, sign


def test_a_run_belongs_to_one_model_and_stage(tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "a" / "mine"
    check_owner(run, "clip", model, resume=False)  # nobody's yet
    run.mkdir()
    model.mkdir(parents=True)
    sign(run, "clip", model)
    (run / "recipe.toml").write_text('stage = "clip"\n')
    assert owner(run) == model
    check_owner(run, "clip", model, resume=True)
    with pytest.raises(ValueError, match=r"a run of clip, not of prior: give another .*--run"):
        check_owner(run, "prior", model, resume=True)
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"a run of another model, .*mine: .*--run"):
            check_owner(run, "clip", tmp_path / "b" / "mine", resume)
    model.rename(tmp_path / "moved")
    check_owner(run, "clip", tmp_path / "moved", resume=True)
    with pytest.raises(ValueError, match="another model"):
        check_owner(run, "clip", tmp_path / "moved", resume=False)


def test_both_can_be_moved_together(tmp_path: Path) -> None:
    (tmp_path / "project" / "run").mkdir(parents=True)
    sign(tmp_path / "project" / "run", "clip", tmp_path / "project" / "model")
    (tmp_path / "project").rename(tmp_path / "other")
    assert owner(tmp_path / "other" / "run") == tmp_path / "other" / "model"


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"model": 3}'])
def test_a_note_that_says_nothing(note: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(note)
    assert owner(tmp_path) is None


def test_a_planted_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match="cannot write into"), held(tmp_path):
        pass
    assert not (tmp_path / "precious").exists()


def _hold(path: Path, worker: "multiprocessing.sharedctypes.Synchronized[int]") -> None:  # type: ignore[name-defined]
    with held(path):
        worker.value = os.fork() or worker.value
        time.sleep(60)


def test_a_killed_trainers_workers_hold_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    worker = context.Value("i", 0)
    trainer = context.Process(target=_hold, args=(tmp_path, worker))
    trainer.start()
    while not worker.value:
        time.sleep(0.01)
    with pytest.raises(ValueError, match="another process"), held(tmp_path):
        pass
    trainer.kill()
    trainer.join()
    try:
        with held(tmp_path):
            os.kill(worker.value, 0)  # which still lives
    finally:
        os.kill(worker.value, signal.SIGKILL)
