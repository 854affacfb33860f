"""Sharpness-aware minimisation, on functions whose worst neighbour is known."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.tiny import tiny_recipe
from unclip.files import read_safetensors
from unclip.stages.catalogue import STAGES
from unclip.stages.recipe import Optimiser
from unclip.training import checkpoint
from unclip.training.job import Folders
from unclip.training.parallel import Alone
from unclip.training.sam import sharpness_aware
from unclip.training.start import start

A = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 4.0]])
RHO = 0.3
ALONE = Alone(torch.device("cpu"))


def test_the_gradient_is_that_of_the_neighbour_along_the_gradient() -> None:
    """f(w) = w A w / 2 over two parameters: the gradient at w + ρ A w / ‖A w‖."""
    first, rest = nn.Parameter(torch.tensor([0.7])), nn.Parameter(torch.tensor([-1.1, 0.4]))
    unused, frozen = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1), requires_grad=False)
    w = torch.cat([first, rest]).detach()
    seen: list[torch.Tensor] = []

    def backward() -> float:
        x = torch.cat([first, rest])
        seen.append(x.detach().clone())
        loss = x @ A @ x / 2
        loss.backward()
        return float(loss.detach())

    for part in (1, 2):  # a batch's parts add up
        value = sharpness_aware(backward, [first, rest, unused, frozen], RHO, ALONE)
        assert value == pytest.approx(float(w @ A @ w / 2))
        gradient = A @ w
        neighbour = w + RHO * gradient / gradient.norm()
        torch.testing.assert_close(seen[-1], neighbour)
        assert first.grad is not None
        assert rest.grad is not None
        found = torch.cat([first.grad, rest.grad])
        torch.testing.assert_close(found, part * A @ neighbour)
        assert torch.equal(torch.cat([first, rest]).detach(), w)  # to the last bit
    assert len(seen) == 4
    assert unused.grad is None


def test_where_the_gradient_is_zero_nothing_moves() -> None:
    w = nn.Parameter(torch.zeros(3))

    def backward() -> None:
        (w @ A @ w).backward()

    sharpness_aware(backward, [w], RHO, ALONE)
    assert torch.equal(w.detach(), torch.zeros(3))
    assert torch.equal(w.grad, torch.zeros(3))


def test_it_leaves_a_sharp_minimum() -> None:
    """A sharp one at 0 and a flat one at 1: plain descent stays at 0, with ρ it is driven out."""

    def ends(rho: float) -> float:
        w = nn.Parameter(torch.tensor([0.05]))

        def backward() -> None:
            sharp, flat = 1 - torch.exp(-((w / 0.1) ** 2)), 1 - torch.exp(-((w - 1) ** 2))
            (sharp * flat).sum().backward()

        for _ in range(400):
            w.grad = None
            if rho:
                sharpness_aware(backward, [w], rho, ALONE)
            else:
                backward()
            with torch.no_grad():
                w -= 0.005 * w.grad
        return float(w)

    assert ends(0.0) == pytest.approx(0.0, abs=0.02)
    assert ends(0.4) > 0.3


def train(model: Path, run: Path, rho: float, *lengths: int) -> dict[str, torch.Tensor]:
    for steps in lengths:
        recipe = tiny_recipe("clip", training={"steps": steps, "batch_size": 4, "accumulation": 2},
                             optimiser={"rho": rho, "decay": 0.0})  # fmt: skip
        where = Folders(model, run, resume=steps != lengths[0])
        assert start(STAGES["clip"], recipe, where, "cpu") == 0
    return read_safetensors(checkpoint.checkpoints(run / "checkpoints")[-1])


def test_runs_with_it_differ_and_resume_to_the_same_bits(tmp_path: Path) -> None:
    plain = train(tmp_path / "a", tmp_path / "run-a", 0.0, 4)
    whole = train(tmp_path / "b", tmp_path / "run-b", 0.1, 4)
    parts = train(tmp_path / "c", tmp_path / "run-c", 0.1, 2, 4)
    assert whole.keys() == parts.keys() == plain.keys()  # nothing more to keep
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert any(not torch.equal(whole[key], plain[key]) for key in whole)


def test_a_negative_radius_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rho is -0\.1; it must be between 0 and"):
        Optimiser(rho=-0.1)
