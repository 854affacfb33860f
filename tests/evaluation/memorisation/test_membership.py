"""Losses: what they are, the area under the curve, and a decoder that truly memorises."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import scenes
from unclip.batch import Batch
from unclip.evaluation.memorisation.membership import auc, losses, membership
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderSettings, DecoderStage
from unclip.storage.folder import ModelFolder


def test_the_area_is_the_share_of_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    lower = torch.randint(0, 9, (30,), generator=generator).float()
    higher = torch.randint(2, 11, (20,), generator=generator).float()
    pairs = [(1.0 if x < y else 0.5 if x == y else 0.0) for x in lower for y in higher]
    found = auc(lower, higher)
    assert found.value == pytest.approx(np.mean(pairs))
    assert found.low < found.value < found.high


def test_the_interval_is_of_use_at_the_ends() -> None:
    low, high = torch.arange(20.0), torch.arange(30.0) + 50
    assert auc(low, high).value == 1
    assert 0.8 < auc(low, high).low < 1
    assert auc(low, high).high == pytest.approx(1)
    assert auc(high, low).value == 0
    assert 0 < auc(high, low).high < 0.2


def test_the_interval_covers_the_truth() -> None:
    """Normal losses, apart by one deviation: the area is Φ(1 / √2) = 0.7602."""
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(300):
        found = auc(torch.randn(40, generator=generator), torch.randn(40, generator=generator) + 1)
        hits += found.low <= 0.7602 <= found.high
    assert 0.91 < hits / 300 <= 0.99


def test_equal_losses_tell_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    found = membership(*torch.randn(2, 400, generator=generator))
    assert found.auc.low < 0.5 < found.auc.high
    assert found.control.low < 0.5 < found.control.high
    assert found.strict.accuracy < 0.05
    with pytest.raises(ValueError, match="4 training images or more"):
        membership(torch.rand(3), torch.rand(9))
    with pytest.raises(ValueError, match="not finite"):
        membership(torch.full((9,), torch.nan), torch.rand(9))


@pytest.fixture
def decoder(tiny_model: Path) -> DecoderStage:
    torch.manual_seed(0)
    clip = FrozenCLIP.load(ModelFolder(tiny_model))
    settings = DecoderSettings(
        (16, 32), layers=1, head_width=16, groups=8, context_width=32, prediction_type="sample"
    )
    return DecoderStage.build(settings, clip, 16)


def batch(first: int, count: int) -> Batch:
    found = scenes(count, first=first)
    images = torch.nn.functional.interpolate(found["images"], (16, 16), mode="area")
    return {"images": images, "captions": found["captions"]}


def test_errors_are_each_images_own(decoder: DecoderStage) -> None:
    noise = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(2))
    whole = decoder.errors(batch(0, 6), 300, noise)
    alone = [decoder.errors(batch(k, 1), 300, noise) for k in range(6)]
    assert torch.allclose(whole, torch.cat(alone), rtol=1e-4)
    several = losses(decoder, [batch(0, 4), batch(4, 2)], seed=1)
    assert torch.allclose(several, losses(decoder, [batch(0, 6)], seed=1), rtol=1e-4)


def test_a_decoder_that_memorises_is_told(decoder: DecoderStage) -> None:
    """Over-fitted on 12 images, it denoises them better than others; fresh, it does not."""
    members, others = batch(0, 12), batch(100, 48)
    before = membership(*(losses(decoder, [one], seed=0) for one in (members, others)))
    assert before.auc.low < 0.5 < before.auc.high
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(decoder.network.parameters(), lr=3e-3)
    for _ in range(100):
        optimiser.zero_grad()
        decoder.loss(members, generator)["loss"].backward()
        optimiser.step()
    after = membership(*(losses(decoder, [one], seed=0) for one in (members, others)))
    assert after.auc.low > 0.75
    assert after.control.low < 0.5 < after.control.high
