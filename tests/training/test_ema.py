"""The moving average of the weights."""

import contextlib

import pytest
import torch
from torch import nn

from unclip.training.ema import EMA


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
