"""Learning-rate schedule, decay groups and the moving average."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unclip.networks.clip_config import CLIPConfig
from unclip.networks.diffusion_prior import DiffusionPrior, DiffusionPriorConfig
from unclip.stages.encoders import CLIP
from unclip.stages.recipe import Optimiser
from unclip.training.muon import Muon, orthogonalised
from unclip.training.optimiser import build, learning_rate
from unclip.training.parallel import Alone

ALONE = Alone(torch.device("cpu"))


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
    first, second = build(network, Optimiser(weight_decay=0.3), ALONE).param_groups
    assert first["weight_decay"] == 0.3
    assert [p.ndim for p in first["params"]] == [2]
    assert second["weight_decay"] == 0.0
    assert [p.ndim for p in second["params"]] == [1, 1]


def test_vectors_and_positions_do_not_decay_whatever_their_shape() -> None:
    networks = {
        "clip": CLIP(CLIPConfig.preset("tiny", 520, 16)),
        "prior": DiffusionPrior(
            DiffusionPriorConfig(
                num_attention_heads=2, attention_head_dim=8, num_layers=1, embedding_dim=16,
                num_embeddings=8,
            )
        ),
    }  # fmt: skip
    for network in networks.values():
        names = {id(p): name for name, p in network.named_parameters()}
        decaying, plain = build(network, Optimiser(weight_decay=0.3), ALONE).param_groups
        kept = {names[id(p)] for p in plain["params"]}
        assert plain["weight_decay"] == 0.0
        for name in (names[id(p)] for p in decaying["params"]):
            assert name.endswith("weight")
            assert "position" not in name
        assert any("position" in name for name in kept)
    assert "prd_embedding" in kept  # (1, 1, D): the prior's final query


def test_muon_takes_the_hidden_matrices_and_kernels() -> None:
    network = nn.ModuleDict(
        {
            "conv_in": nn.Conv2d(3, 16, 3),
            "hidden": nn.Conv2d(16, 16, 3),
            "linear": nn.Linear(16, 32),
            "token_embedding": nn.Embedding(50, 16),
            "conv_out": nn.Conv2d(16, 3, 3),
        }
    )
    recipe = Optimiser(kind="muon", learning_rate=1e-3, matrix_rate=4e-3, weight_decay=0.1)
    optimiser = build(network, recipe, ALONE)
    assert isinstance(optimiser, Muon)
    matrices, decaying, plain = optimiser.param_groups
    assert [p is q for p, q in zip(
        matrices["params"], (network["hidden"].weight, network["linear"].weight), strict=True
    )] == [True, True]  # fmt: skip
    assert [group["scale"] for group in (matrices, decaying, plain)] == [4.0, 1.0, 1.0]
    assert [group["weight_decay"] for group in (matrices, decaying, plain)] == [0.1, 0.1, 0.0]
    assert len(decaying["params"]) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 12, 40), (2, 40, 12), (1, 16, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    near = orthogonalised(matrices, dtype)
    assert near.dtype == torch.float32
    values = torch.linalg.svdvals(near)
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    exact = u @ v
    cosine = F.cosine_similarity(near.flatten(1), exact.flatten(1))
    assert cosine.min() > 0.95


def test_a_step_of_muon_follows_its_definition() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 8)
    start, gradient = layer.weight.detach().clone(), torch.randn(8, 12)
    optimiser = build(layer, Optimiser(kind="muon", matrix_rate=0.1, weight_decay=0.5), ALONE)
    for group in optimiser.param_groups:
        group["lr"] *= group["scale"]
    layer.weight.grad, layer.bias.grad = gradient.clone(), torch.ones(8)
    bias = layer.bias.detach().clone()
    optimiser.step()
    # Momentum starts at zero: its Nesterov look-ahead is a positive multiple of the gradient.
    update = orthogonalised(gradient[None])[0] * 0.2 * 12**0.5
    expected = start * (1 - 0.1 * 0.5) - 0.1 * update
    torch.testing.assert_close(layer.weight.detach(), expected, atol=1e-5, rtol=0)
    assert torch.allclose(layer.bias.detach(), bias - 3e-4, atol=1e-7)  # AdamW's first step


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_both_kinds_descend(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    x = torch.randn(64, 16)
    optimiser = build(network, Optimiser(kind=kind, learning_rate=1e-2, matrix_rate=1e-2), ALONE)  # type: ignore[arg-type]
    losses = []
    for _ in range(60):
        loss = (network(x) - x.flip(1)).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"beta2": 1.0}, "beta2"),
        ({"decay": 1.5}, "decay is 1.5; it must be between 0 and 1"),
        ({"warmup": -1}, "warmup"),
    ],
)
def test_impossible_recipes_are_refused(change: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Optimiser(**change)  # type: ignore[arg-type]
