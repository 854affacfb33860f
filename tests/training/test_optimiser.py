"""Learning-rate schedule, decay groups and the moving average."""

import contextlib
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from unclip.training.optimiser import EMA, adamw, learning_rate
from unclip.training.recipe import Optimiser


def test_the_schedule_warms_up_stays_and_falls_to_zero() -> None:
    recipe = Optimiser(learning_rate=2.0, warmup=4, decay=0.5)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert set(rates[4:51]) == {2.0}
    assert rates[75] == pytest.approx(1.0)  # half of the cosine
    assert rates[99] == pytest.approx(1 - math.cos(math.pi / 50))
    assert all(a >= b for a, b in pairwise(rates[50:]))
    assert learning_rate(Optimiser(learning_rate=2.0, warmup=0), 0, 10) == 2.0
    assert learning_rate(Optimiser(learning_rate=2.0, warmup=0), 9, 10) == 2.0


def test_only_matrices_decay() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    network[1].bias.requires_grad_(False)
    first, second = adamw(network, Optimiser(weight_decay=0.3)).param_groups
    assert first["weight_decay"] == 0.3
    assert [p.ndim for p in first["params"]] == [2]
    assert second["weight_decay"] == 0.0
    assert [p.ndim for p in second["params"]] == [1, 1]


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


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"beta2": 1.0}, "beta2"),
        ({"decay": 1.5}, "decay must be in"),
        ({"warmup": -1}, "warmup"),
    ],
)
def test_impossible_recipes_are_refused(change: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Optimiser(**change)  # type: ignore[arg-type]
