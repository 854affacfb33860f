"""Masks for training, and the decoder with mask channels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.stages.decoder.test_stage import CAPTIONS, SETTINGS
from tests.tiny import learns, noise, scenes
from unclip.batch import Batch
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.inpainting import Known
from unclip.diffusion.sampling import Sampling
from unclip.networks.unet import UNet
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderNetwork, DecoderStage
from unclip.stages.masks import mask_channels, random_masks
from unclip.storage.folder import ModelFolder

GUIDED = Sampling(3, guidance=Guidance(2.0))


@pytest.fixture
def plain(clip: FrozenCLIP, tiny_model: Path) -> DecoderStage:
    return DecoderStage.load(ModelFolder(tiny_model), clip)


def masked(seed: int = 0) -> Known:
    unknown = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    unknown[..., 4:12, 6:16] = True
    return Known(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed)), unknown)


def sampled(stage: DecoderStage, *seeds: int, sampling: Sampling = GUIDED, **more: Known) -> Tensor:
    text = stage.clip.text(CAPTIONS[: len(seeds)])
    z_i = stage.clip.image(scenes(len(seeds), 32, 10)["images"])
    return stage.sample(z_i, text, sampling, noise(*seeds), **more)  # type: ignore[arg-type]


def small(count: int) -> Batch:
    return {**scenes(count), "images": scenes(count)["images"][:, :, ::2, ::2]}


def test_masks_are_boxes_strokes_and_everything() -> None:
    masks = random_masks(400, 16, torch.Generator().manual_seed(0))
    assert masks.shape == (400, 1, 16, 16)
    assert torch.equal(masks, random_masks(400, 16, torch.Generator().manual_seed(0)))
    assert not torch.equal(masks, random_masks(400, 16, torch.Generator().manual_seed(1)))
    erased = masks.flatten(1).float().mean(dim=1)
    assert erased.min() > 0
    assert (erased == 1).float().mean().item() == pytest.approx(0.25, abs=0.06)
    filled = masks.any(3, keepdim=True) & masks.any(2, keepdim=True)  # the box around each
    boxes = (masks == filled).flatten(1).all(1) & (erased < 1)
    assert boxes.float().mean().item() == pytest.approx(0.375, abs=0.08)
    assert 0.2 < erased[erased < 1].mean() < 0.4


def test_erased_pixels_are_not_seen() -> None:
    images, unknown = masked().x0, masked().unknown
    for apart in (False, True):
        shown = mask_channels(images.masked_fill(unknown, torch.nan), unknown, apart)
        assert torch.equal(shown[:, :3], images * ~unknown)
        assert torch.equal(shown[:, 3:], unknown.float())


def test_of_images_of_which_nothing_is_known_additional_channels_hold_nothing() -> None:
    images, one = masked().x0.expand(2, -1, -1, -1), masked().unknown
    unknown = torch.cat([one, torch.ones_like(one)])
    added, inputs = (mask_channels(images, unknown, apart) for apart in (True, False))
    assert torch.equal(added[0], inputs[0])
    assert not added[1].any()
    assert inputs[1, 3].all()


@pytest.mark.parametrize("inpainting", [False, True])
@pytest.mark.parametrize("resamples", [1, 2])
def test_what_is_known_is_kept_exactly_and_the_rest_is_painted(
    inpainting: bool, resamples: int, plain: DecoderStage
) -> None:
    if inpainting:
        plain.widen()
    known, sampling = masked(), replace(GUIDED, resamples=resamples)
    both = sampled(plain, 1, 2, sampling=sampling, known=known)
    kept = ~known.unknown.expand_as(both)
    assert torch.equal(both[kept], known.x0.expand_as(both)[kept])
    assert not torch.equal(both, sampled(plain, 1, 2))
    alone = sampled(plain, 1, sampling=sampling, known=known)
    torch.testing.assert_close(alone[0], both[0], atol=1e-4, rtol=1e-4)
    other = sampled(plain, 1, 2, sampling=sampling, known=Known(-known.x0, known.unknown))
    assert not torch.equal(other[~kept], both[~kept])  # what is known matters to the rest


def test_nothing_known_is_plain_sampling(plain: DecoderStage) -> None:
    nothing = Known(torch.zeros(1, 3, 16, 16), torch.ones(1, 1, 16, 16, dtype=torch.bool))
    assert torch.equal(sampled(plain, 1, 2, known=nothing), sampled(plain, 1, 2))


def test_added_channels_change_nothing_at_first(
    plain: DecoderStage, clip: FrozenCLIP, tiny_model: Path
) -> None:
    plain.widen()
    before = DecoderStage.load(ModelFolder(tiny_model), clip)
    for known in ({}, {"known": masked()}):
        a, b = (sampled(stage, 1, 2, **known) for stage in (before, plain))
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_it_learns_to_see_what_is_known_and_is_saved(clip: FrozenCLIP, tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage = DecoderStage.build(replace(SETTINGS, inpainting=True), clip, 16)
    images = torch.nn.functional.interpolate(scenes(8)["images"], 16, mode="area")
    batch = {**scenes(8), "images": images}
    before, after = learns(stage, batch)
    assert after < 0.8 * before
    assert stage.network.masks is not None
    assert stage.network.masks.conv.weight.abs().sum() > 0
    rows = stage.preview(batch, torch.Generator())
    assert rows is not None
    assert rows.shape == (4, 8, 3, 16, 16)
    assert torch.equal(rows[3, :, :, :4], images[:, :, :4])
    folder = ModelFolder(tmp_path)
    stage.save(folder)
    assert folder.index()["_decoder"]["inpainting"] is True
    again = DecoderStage.load(folder, clip)
    a, b = (sampled(s, 1, 2, known=masked()) for s in (stage, again))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert not torch.equal(sampled(again, 1), sampled(again, 1, known=masked()))
    # Without them, it is the decoder that makes images of which nothing is known.
    alone = sampled(again, 1, 2)
    again.network.masks = again.network.decoder.beside = None
    again.settings = replace(again.settings, inpainting=False)
    assert torch.equal(sampled(again, 1, 2), alone)
    again.save(folder)
    assert not folder.has("decoder_masks")
    assert torch.equal(sampled(DecoderStage.load(folder, clip), 1, 2), alone)


def test_models_of_before_have_them_as_inputs_of_the_u_net(
    plain: DecoderStage, clip: FrozenCLIP, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    wide = UNet(replace(plain.network.decoder.config, in_channels=7))
    network = DecoderNetwork(wide, plain.network.text_proj)
    settings = replace(plain.settings, inpainting=True)
    stage = DecoderStage(network, clip, plain.process.config, settings)
    with torch.no_grad():
        wide.conv_out.weight[:3].normal_(std=0.1)
        wide.conv_out.bias[3:] = -1.0  # type: ignore[index]  # what is published of the variance
    assert stage.loss(small(2), torch.Generator().manual_seed(0))["loss"].isfinite()
    folder = ModelFolder(tmp_path)
    stage.save(folder)
    again = DecoderStage.load(folder, clip)
    assert again.network.masks is None
    for known in ({}, {"known": masked()}):
        assert torch.equal(sampled(stage, 1, 2, **known), sampled(again, 1, 2, **known))
    folder.update_index({"_decoder": {"inpainting": False}})
    with pytest.raises(ValueError, match="has 7 channels in"):
        DecoderStage.load(folder, clip)


def test_masks_are_drawn_from_the_steps_generator(plain: DecoderStage) -> None:
    plain.widen()
    batch = small(2)
    a, b, c = (plain.loss(batch, torch.Generator().manual_seed(k))["loss"] for k in (5, 5, 6))
    assert a == b
    assert a != c
