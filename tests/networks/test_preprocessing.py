"""CLIP's preprocessing of tensors, and its configuration file."""

import pytest
import torch

from unclip.networks.preprocessing import ImageProcessorConfig, preprocess


def test_opens_the_published_configs() -> None:
    openai = {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": 224,
    }
    assert ImageProcessorConfig.from_json(openai) == ImageProcessorConfig()
    assert ImageProcessorConfig.from_json({"device": None, "data_format": "channels_first"})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"siez": 224}, "siez"),
        ({"do_pad": True}, "do_pad"),
        ({"image_processor_type": "ViTImageProcessor"}, "ViTImageProcessor"),
        ({"size": {"longest_edge": 4}}, "shortest_edge"),
        ({"size": 0}, "size"),
        ({"size": "big"}, "size"),
        ({"size": {"shortest_edge": 3.5}}, "size"),
        ({"crop_size": {"height": 3, "width": 4}}, "equal"),
        ({"resample": 9}, "resample"),
        ({"image_std": [1.0, 1.0]}, "image_std has 2 entries; it must have 3"),
        ({"image_std": [1.0, 0.0, 1.0]}, "image_std is 0.0; it must be between"),
        ({"image_mean": "grey"}, "image_mean"),
        ({"do_resize": "yes"}, "do_resize"),
    ],
)
def test_bad_configs_name_file_and_key(values: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        ImageProcessorConfig.from_json(values, "model/preprocessor_config.json")
    assert str(caught.value).count("model/preprocessor_config.json") == 1


def test_images_of_the_right_size_are_only_normalised() -> None:
    config = ImageProcessorConfig.for_clip(8)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (config.image_mean, config.image_std))
    expected = ((images + 1) / 2 - mean) / std
    assert torch.allclose(preprocess(images, config), expected, atol=1e-6)


def test_the_middle_is_kept_and_small_images_are_padded_with_black() -> None:
    images = torch.full((1, 3, 4, 8), -1.0)
    images[..., 2:6] = 1.0
    config = ImageProcessorConfig(size=4, crop_size=4, do_normalize=False)
    assert torch.equal(preprocess(images, config), torch.ones(1, 3, 4, 4))
    wide = ImageProcessorConfig(size=4, crop_size=10, do_normalize=False)
    padded = preprocess(images, wide)
    assert padded.shape == (1, 3, 10, 10)
    assert padded.sum() == images.clamp(min=0).sum()


def test_gradients_and_half_precision_pass() -> None:
    images = torch.zeros(1, 3, 16, 16, dtype=torch.bfloat16, requires_grad=True)
    out = preprocess(images, ImageProcessorConfig.for_clip(8))
    assert out.dtype == torch.float32
    out.sum().backward()
    assert images.grad is not None
