"""What a checkpoint's name and header may be; test_resume.py has the trainings."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from unclip.training.checkpoint import State, checkpoints, resume, save
from unclip.training.ema import EMA
from unclip.training.parallel import Alone


def state(step: int = 0) -> State:
    """Of a network of four weights, after a step of its optimiser."""
    network = nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    alone = Alone(torch.device("cpu"))
    return State(network, optimiser, EMA(network, 0.9), alone, step, learned_from={"clip": "a"})


def test_copies_under_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("step-best", "step-00000009 (copy)", "step-1e3", "step-"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"precious")
    for step in (5, 6, 7, 99_999_999, 100_000_000):
        save(state(step), tmp_path)
    assert [file.stem for file in checkpoints(tmp_path)] == ["step-99999999", "step-100000000"]
    assert len(list(tmp_path.glob("*"))) == 4 + 2
    resumed = state()
    resume(resumed, tmp_path)
    assert resumed.step == 100_000_000


@pytest.mark.parametrize("text", ["x", "[1]", '{"a":' * 5000, "[" * 100_000, "1" * 5000])
@pytest.mark.parametrize("key", ["learned_from", "checksums"])
def test_a_header_with_anything_in_it(key: str, text: str, tmp_path: Path) -> None:
    save(state(3), tmp_path)
    (file,) = checkpoints(tmp_path)
    with safe_open(file, "pt") as opened:
        facts = {**opened.metadata(), key: text}
    if key != "checksums":
        del facts["checksums"]  # as of an older version
    save_file(load_file(file), file, facts)
    resumed = state()
    if key == "checksums":
        with pytest.raises(ValueError, match="is damaged: its"):
            resume(resumed, tmp_path)
    else:
        resume(resumed, tmp_path)
        assert resumed.step == 3


def test_moments_of_another_shape_are_refused(tmp_path: Path) -> None:
    save(state(3), tmp_path)
    (file,) = checkpoints(tmp_path)
    save_file({**load_file(file), "exp_avg.weight": torch.zeros(3)}, file, {"step": "3"})
    with pytest.raises(ValueError, match=r"'exp_avg.weight' has shape \(3,\), not \(2, 2\)"):
        resume(state(), tmp_path)


def test_a_checkpoint_under_another_steps_name_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (2, 3):
        save(state(step), tmp_path)
    (tmp_path / "step-00000003.safetensors").rename(tmp_path / "step-00000140.safetensors")
    resumed = state()
    resume(resumed, tmp_path)
    assert resumed.step == 2
    assert "holds step 3" in capsys.readouterr().out


def test_what_was_passed_over_counts_for_none_of_the_two_that_are_kept(tmp_path: Path) -> None:
    for step in (2, 4):
        save(state(step), tmp_path)
    whole = (tmp_path / "step-00000004.safetensors").read_bytes()
    (tmp_path / "step-00000004.safetensors").write_bytes(whole[:-9])
    resumed = state()
    resume(resumed, tmp_path)
    for step, kept in ((3, (2, 3)), (5, (3, 5))):
        resumed.step = step
        save(resumed, tmp_path)
        assert [int(file.stem.removeprefix("step-")) for file in checkpoints(tmp_path)] == [*kept]
