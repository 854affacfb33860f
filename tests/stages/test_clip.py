"""Contrastive training on the built-in world."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.tiny import learns, scenes
from unclip.networks.clip import MAX_LOGIT_SCALE
from unclip.stages.clip import ClipSettings, ClipStage, contrastive_loss
from unclip.stages.conditioning import FrozenCLIP
from unclip.storage.folder import ModelFolder

SETTINGS = ClipSettings("tiny", vocab_size=560, context_length=24, captions=100)


def build() -> ClipStage:
    torch.manual_seed(0)
    return ClipStage.build(SETTINGS, scenes(64)["captions"])


def test_it_learns_to_match_and_is_saved_as_it_is(tmp_path: Path) -> None:
    stage, batch = build(), scenes(16)
    before, after = learns(stage, batch, rate=1e-3)
    assert before == pytest.approx(torch.tensor(16.0).log().item(), abs=1.5)
    assert after < 0.6 * before
    stage.save(ModelFolder(tmp_path))
    clip = FrozenCLIP.load(ModelFolder(tmp_path))
    z_i, z_t = clip.image(batch["images"]), clip.text(batch["captions"]).z_t
    generator = torch.Generator()
    with torch.no_grad():
        expected = stage.loss(batch, generator)
    loaded = contrastive_loss(z_i, z_t, stage.network.temperature())
    torch.testing.assert_close(loaded["loss"], expected["loss"].detach(), atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_symmetric_cross_entropy_of_cosines() -> None:
    torch.manual_seed(0)
    z_i, z_t = torch.randn(5, 7), torch.randn(5, 7)
    logits = 3.0 * F.cosine_similarity(z_i[:, None], z_t[None], dim=-1)
    expected = -(logits.softmax(1).diagonal().log() + logits.softmax(0).diagonal().log()).mean() / 2
    losses = contrastive_loss(z_i, z_t, torch.tensor(3.0))
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    perfect = contrastive_loss(z_i, z_i, torch.tensor(100.0))
    assert perfect["accuracy"].item() == 1.0
    assert perfect["loss"].item() < 1e-3


def test_the_temperature_comes_down_again_from_its_limit() -> None:
    stage = build()
    with torch.no_grad():
        stage.network.logit_scale.fill_(6.0)  # a step beyond
    assert stage.network.towers()[0].config.logit_scale_init_value == MAX_LOGIT_SCALE
    losses = stage.loss(scenes(8), torch.Generator())
    losses["loss"].backward()
    gradient = stage.network.logit_scale.grad
    assert gradient is not None
    assert gradient > 0  # of random pairs: lower is better
    assert losses["scale"].item() == pytest.approx(100.0)


def test_the_vocabulary_may_be_smaller_than_asked_for() -> None:
    stage = ClipStage.build(ClipSettings("tiny", vocab_size=2000), ["a red circle"] * 3)
    text = stage.network.config.text
    assert text.vocab_size == len(stage.tokenizer) < 2000
    assert text.eos_token_id == stage.tokenizer.eos_id


def test_half_precision_is_for_the_network_only() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        losses = build().loss(scenes(8), torch.Generator())
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
