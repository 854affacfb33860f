"""CLIP's towers, configurations and temperature; equality with transformers is in parity/."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unclip.networks.clip_config import SIZES, CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from unclip.stages.encoders import (
    CLIP,
    load_image_encoder,
    load_text_encoder,
    save_encoder,
    similarity,
)
from unclip.storage.folder import ModelFolder


def tiny(**text: Any) -> CLIP:
    config = CLIPConfig.preset("tiny", 50, 12)
    torch.manual_seed(0)
    return CLIP(replace(config, text=replace(config.text, eos_token_id=49, **text))).initialise()


def test_the_papers_size_has_its_parameters() -> None:
    with torch.device("meta"):
        clip = CLIP(CLIPConfig.preset("ViT-H/16"))
    millions = {
        name: sum(p.numel() for p in getattr(clip, name).parameters()) / 1e6
        for name in ("vision_model", "text_model")
    }
    assert millions["vision_model"] == pytest.approx(631, abs=2)
    assert millions["text_model"] == pytest.approx(353, abs=2)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_can_be_built(size: str) -> None:
    with torch.device("meta"):
        clip = CLIP(CLIPConfig.preset(size))
    assert clip.text_projection.out_features == clip.visual_projection.out_features


def test_padding_changes_nothing_and_pooling_finds_the_end() -> None:
    clip = tiny().eval()
    ids = torch.tensor([[48, 3, 4, 49]])
    padded = torch.tensor([[48, 3, 4, 49, 0, 0, 7, 0]])
    z_t, hidden = clip.encode_text(ids)
    z_padded, hidden_padded = clip.encode_text(padded)
    assert torch.allclose(z_t, z_padded, atol=1e-6)
    assert torch.allclose(hidden, hidden_padded[:, :4], atol=1e-6)
    first, _ = clip.encode_text(torch.tensor([[48, 3, 4, 49, 49, 49]]))  # padded with the end token
    assert torch.allclose(z_t, first, atol=1e-6)
    legacy = tiny(logit_scale_init_value=1.0)
    legacy.text_model.eos_token_id = 2
    assert torch.allclose(legacy.eval().encode_text(padded)[0], z_t, atol=1e-6)


def test_the_temperature_is_clamped() -> None:
    clip = tiny()
    assert clip.temperature().item() == pytest.approx(1 / 0.07)
    nn.init.constant_(clip.logit_scale, 9.0)
    assert clip.temperature().item() == pytest.approx(100.0)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="32×32 pixels, not 16×64"):
        tiny().encode_image(torch.zeros(1, 3, 64, 16))


def test_similarity_is_the_cosine() -> None:
    a, b = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0]])
    assert torch.allclose(similarity(a, b), torch.tensor([[0.6], [0.0]]))


def test_towers_are_saved_with_the_temperature_and_stay_trainable(tmp_path: Path) -> None:
    clip, folder = tiny(), ModelFolder(tmp_path / "model")
    nn.init.constant_(clip.logit_scale, 3.5)
    text, image = clip.towers()
    for tower in (text, image):
        save_encoder(folder, tower.requires_grad_(False))
    assert all(p.requires_grad for p in clip.parameters())
    text, image = load_text_encoder(folder), load_image_encoder(folder)
    assert text.config.logit_scale_init_value == image.config.logit_scale_init_value == 3.5
    ids, images = torch.tensor([[48, 3, 49]]), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(text(ids)[0], clip.encode_text(ids)[0])
    torch.testing.assert_close(image(images), clip.encode_image(images))
    half = load_text_encoder(folder, torch.bfloat16)
    assert half(ids)[0].dtype == torch.bfloat16


def test_configs_go_there_and_back() -> None:
    text, vision = CLIPTextConfig(hidden_act="gelu"), CLIPVisionConfig(layer_norm_eps=1e-6)
    assert CLIPTextConfig.from_json(json.loads(json.dumps(text.to_json()))) == text
    assert CLIPVisionConfig.from_json(json.loads(json.dumps(vision.to_json()))) == vision


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_acts": "gelu"}, "where: unknown key 'hidden_acts'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; it must be one of"),
        ({"hidden_size": 63}, "hidden_size 63 is not a multiple"),
        ({"hidden_size": "64"}, "where: hidden_size is '64'; it must be a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ],
)
def test_bad_configs_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        CLIPTextConfig.from_json({**CLIPTextConfig().to_json(), **change}, "where")


def test_towers_must_meet() -> None:
    with pytest.raises(ValueError, match="projects to 8 dimensions, the image tower to 512"):
        CLIPConfig(CLIPTextConfig(projection_dim=8))
    with pytest.raises(ValueError, match="image_size 30 is not a multiple of patch_size 8"):
        CLIPVisionConfig(image_size=30, patch_size=8)
    with pytest.raises(ValueError, match=r"unknown CLIP size 'smal'; did you mean 'small'\?"):
        CLIPConfig.preset("smal")


def test_folders_that_are_no_whole_clip(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*config\.json"):
        CLIP.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CLIPTextConfig().to_json()))
    with pytest.raises(ValueError, match="it has no text_config"):
        CLIP.from_pretrained(tmp_path)


def test_the_initial_scale_of_activations() -> None:
    clip = tiny()
    weight = clip.vision_model.encoder.layers[0].self_attn.out_proj.weight  # type: ignore[union-attr]
    assert weight.std().item() == pytest.approx((2 * 64 * 2) ** -0.5, rel=0.1)
    assert not clip.text_model.encoder.layers[1].mlp.fc1.bias.any()  # type: ignore[union-attr]
    assert math.isclose(clip.logit_scale.item(), math.log(1 / 0.07), rel_tol=1e-6)
