"""The moving average of the weights."""

import contextlib
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.runs import recipe_of, spec_of
from unclip.stages.base import LearnsFromItself
from unclip.training.ema import EMA
from unclip.training.job import Folders, build_job
from unclip.training.loop import Trainer
from unclip.training.parallel import Alone


def test_the_average_forgets_the_start_and_then_moves_slowly() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    ema = EMA(network, 0.9)
    nn.init.constant_(network.weight, 1.0)
    expected = 0.0
    for step in range(200):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay)
        ema.update(step)
        if step == 0:
            assert ema.average["weight"].item() == pytest.approx(0.9)
    assert ema.average["weight"].item() == pytest.approx(expected)


def test_averaged_weights_are_lent_and_given_back_bit_for_bit() -> None:
    network = nn.Linear(3, 3)
    ema = EMA(network, 0.99)
    nn.init.normal_(network.weight)
    live, average = network.weight.detach().clone(), ema.average["weight"].clone()
    with contextlib.suppress(RuntimeError), ema.in_place():
        assert torch.equal(network.weight, average)
        raise RuntimeError
    assert torch.equal(network.weight, live)
    assert torch.equal(ema.average["weight"], average)


def test_a_stage_learns_from_the_average_and_is_measured_by_what_is_measured(model: Path) -> None:
    folders, stage = Folders(model, model.parent / "none"), "few-step-decoder"
    trainer = Trainer(
        build_job(spec_of(stage), recipe_of(stage), folders, Alone(torch.device("cpu")))
    )
    trainer.step()
    learner, ema = trainer.job.stage, trainer.state.ema
    assert isinstance(learner, LearnsFromItself)
    weight, average = learner.network.conv_in.weight, ema.average["conv_in.weight"].clone()  # type: ignore[attr-defined]
    live = weight.detach().clone()
    assert not torch.equal(live, average)
    with learner.averaged():
        assert torch.equal(weight, average)
    assert torch.equal(weight, live)
    with ema.in_place(), learner.averaged():  # as in measuring on held-out images
        assert torch.equal(weight, average)
    assert torch.equal(weight, live)
