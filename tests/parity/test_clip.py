"""Our CLIP against transformers', on the same random weights and through files both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from unclip.files import read_json
from unclip.networks.clip import ImageEncoder, TextEncoder
from unclip.networks.clip_config import CLIPTextConfig, CLIPVisionConfig
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.encoders import CLIP
from unclip.storage.folder import ModelFolder
from unclip.storage.weights import load_weights

transformers = pytest.importorskip("transformers")
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def configs(eos: int, act: str, width: int, layers: int, heads: int, patch: int) -> Any:
    text = {
        "vocab_size": 60,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 11,
        "hidden_act": act,
        "eos_token_id": eos,
        "projection_dim": 24,
    }
    vision = {
        "hidden_size": 2 * width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers + 1,
        "num_attention_heads": heads,
        "image_size": 4 * patch,
        "patch_size": patch,
        "hidden_act": act,
        "layer_norm_eps": 1e-6,
        "projection_dim": 24,
    }
    return text, vision


CASES = [
    configs(2, "quick_gelu", 32, 2, 4, 4),
    configs(59, "gelu", 48, 1, 3, 7),
    configs(59, "quick_gelu", 16, 3, 1, 2),
    configs(2, "gelu", 24, 2, 2, 8),
]


def ids() -> torch.Tensor:
    tokens = torch.randint(3, 58, (5, 11), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 58
    tokens[torch.arange(5), torch.tensor([1, 4, 10, 7, 5])] = 59
    tokens[1, 5:] = 0
    tokens[3, 8:] = 59
    return tokens


@pytest.mark.parametrize(("text", "vision"), CASES)
def test_towers_give_transformers_features(
    text: dict[str, Any], vision: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**text)).eval()
    theirs.save_pretrained(tmp_path / "text")
    ours = TextEncoder(CLIPTextConfig.from_json(read_json(tmp_path / "text" / "config.json")))
    load_weights(ours, tmp_path / "text")
    z_t, hidden = ours(ids())
    with torch.no_grad():
        expected = theirs(ids())
    torch.testing.assert_close(z_t, expected.text_embeds, **TOLERANCE)
    torch.testing.assert_close(hidden, expected.last_hidden_state, **TOLERANCE)

    other = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**vision))
    other.eval().save_pretrained(tmp_path / "image")
    image = ImageEncoder(CLIPVisionConfig.from_json(read_json(tmp_path / "image" / "config.json")))
    load_weights(image, tmp_path / "image")
    images = torch.randn(3, 3, vision["image_size"], vision["image_size"])
    with torch.no_grad():
        torch.testing.assert_close(image(images), other(images).image_embeds, **TOLERANCE)


@pytest.mark.parametrize(("text", "vision"), CASES)
@pytest.mark.parametrize("old", [False, True])
def test_whole_folders_open(
    text: dict[str, Any], vision: dict[str, Any], old: bool, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=20, logit_scale_init_value=3.0
    )
    theirs = transformers.CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path)
    if old:  # folders of 2022 hold the positions too
        file = tmp_path / "model.safetensors"
        tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
        tensors["text_model.embeddings.position_ids"] = torch.arange(11)[None]
        tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
        save_file(tensors, file, {"format": "pt"})
    ours = CLIP.from_pretrained(tmp_path)
    images = torch.randn(2, 3, vision["image_size"], vision["image_size"])
    with torch.no_grad():
        expected = theirs(input_ids=ids(), pixel_values=images)
        z_i, (z_t, _) = ours.encode_image(images), ours.encode_text(ids())
        logits = (
            ours.temperature()
            * torch.nn.functional.normalize(z_i, dim=-1)
            @ torch.nn.functional.normalize(z_t, dim=-1).T
        )
    torch.testing.assert_close(logits, expected.logits_per_image, atol=1e-4, rtol=1e-4)
    assert ours.logit_scale.item() == pytest.approx(3.0)


def test_transformers_opens_what_we_train(tiny_model: Path) -> None:
    text = transformers.CLIPTextModelWithProjection.from_pretrained(tiny_model / "text_encoder")
    image = transformers.CLIPVisionModelWithProjection.from_pretrained(tiny_model / "image_encoder")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tiny_model / "tokenizer")
    clip = FrozenCLIP.load(ModelFolder(tiny_model))
    captions = ["a red circle", "two blue squares on a green field!"]
    inputs = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    condition = clip.text(captions)
    with torch.no_grad():
        torch.testing.assert_close(condition.z_t, text(inputs.input_ids).text_embeds, **TOLERANCE)
        images = torch.rand(2, 3, 32, 32) * 2 - 1
        processor = transformers.CLIPImageProcessorPil.from_pretrained(
            tiny_model / "feature_extractor"
        )
        levels = ((images + 1) * 127.5).round()
        pixels = processor(list(levels.byte()), return_tensors="pt")["pixel_values"]
        expected = image(pixels).image_embeds
    torch.testing.assert_close(clip.image(levels / 127.5 - 1), expected, **TOLERANCE)
