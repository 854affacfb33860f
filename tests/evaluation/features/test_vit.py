"""ViT and DINOv2 by path, against transformers with the same random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from unclip.evaluation.features.extractor import open_extractor
from unclip.files import write_json

transformers = pytest.importorskip("transformers")
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}


def opened(model: Any, folder: Path, processor: dict[str, Any] | None = None) -> Any:
    for parameter in model.parameters():  # some begin at 0 or 1, and would hide a mistake
        torch.nn.init.normal_(parameter, std=0.3)
    model.eval().save_pretrained(folder)
    if processor is not None:
        getattr(transformers, processor.pop("class"))(**processor).save_pretrained(folder)
    return open_extractor(folder, device="cpu")


@pytest.mark.parametrize(
    ("kind", "side", "more"),
    [
        ("ViT", 28, {"intermediate_size": 48}),
        ("Dinov2", 28, {"mlp_ratio": 2}),
        ("Dinov2", 42, {"use_swiglu_ffn": True}),  # more patches than there are positions
        ("Dinov2WithRegisters", 42, {"num_register_tokens": 3}),
    ],
)
def test_features_are_the_class_token_of_transformers(
    kind: str, side: int, more: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**TINY, **more)
    model = getattr(transformers, f"{kind}Model")(config)
    extractor = opened(model, tmp_path / "tiny")
    assert (extractor.name, extractor.dimensions) == ("tiny", 32)
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = model(pixels).last_hidden_state[:, 0]
        found = extractor.network(pixels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_classifier_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(**TINY, intermediate_size=48)
    model = transformers.ViTForImageClassification(config)
    processor = {"class": "ViTImageProcessorPil", "size": {"height": 28, "width": 28}}
    extractor = opened(model, tmp_path / "vit", processor)
    assert extractor.size == 28
    levels = torch.randint(0, 256, (1, 3, 28, 28), dtype=torch.uint8)
    pixels = transformers.ViTImageProcessorPil.from_pretrained(tmp_path / "vit")(
        list(levels), return_tensors="pt"
    )["pixel_values"]
    with torch.no_grad():
        expected = model.vit(pixels).last_hidden_state[:, 0]
    found = extractor(levels / 127.5 - 1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_dinov2_prepares_images_as_published(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.Dinov2Model(transformers.Dinov2Config(**TINY))
    processor = {
        "class": "BitImageProcessorPil",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 28, "width": 28},
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    extractor = opened(model, tmp_path / "dino", processor)
    assert extractor.size == 28
    levels = torch.randint(0, 256, (1, 3, 32, 40), dtype=torch.uint8)
    pixels = transformers.BitImageProcessorPil.from_pretrained(tmp_path / "dino")(
        list(levels), return_tensors="pt"
    )["pixel_values"]
    with torch.no_grad():
        expected = model(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(extractor(levels / 127.5 - 1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [16384.5, "28", -1, None])
def test_a_size_that_is_none_is_refused_by_its_name(size: object, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "vit", "image_size": size})
    with pytest.raises(ValueError, match=r"config\.json.*image_size"):
        open_extractor(tmp_path, device="cpu")
