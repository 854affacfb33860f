"""How other people's networks want their images, read from preprocessor_config.json."""

from pathlib import Path
from typing import Any, Final

from unclip.files import MAX_CONFIG, read_json
from unclip.networks.preprocessing import ImageProcessorConfig

IMAGENET: Final = ImageProcessorConfig(
    size=256,
    crop_size=224,
    image_mean=(0.485, 0.456, 0.406),
    image_std=(0.229, 0.224, 0.225),
)
"""As most networks for ImageNet are tested: the shorter side 256, the middle 224, bicubic."""
_AS_CLIP: Final = ("BitImageProcessor", "BitImageProcessorFast")
_SQUARE: Final = ("ViTImageProcessor", "ViTImageProcessorFast", "ViTFeatureExtractor")


def processor_of(folder: Path, otherwise: ImageProcessorConfig) -> ImageProcessorConfig:
    """The folder's own, or `otherwise` where it has none.

    Raises:
        ValueError: it has a key that is not known.
    """
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return otherwise
    said = read_json(file, MAX_CONFIG)
    kind = said.get("image_processor_type", said.get("feature_extractor_type"))
    if kind in _AS_CLIP or kind in _SQUARE:
        said = {k: v for k, v in said.items() if not k.endswith("_type")}
    if kind in _SQUARE:
        said = _squared(said)
    return ImageProcessorConfig.from_json(said, str(file))


def _squared(said: dict[str, Any]) -> dict[str, Any]:
    """ViT's: resized to a square, whatever its shape was, and not cropped."""
    size = said.get("size", 224)
    if isinstance(size, int):
        size = {"height": size, "width": size}
    side = size.get("height", 224) if isinstance(size, dict) else 224
    kept = {k: v for k, v in said.items() if not k.startswith("crop")}
    half = [0.5, 0.5, 0.5]
    return {
        "resample": 2, "image_mean": half, "image_std": half,
        **kept, "size": size, "crop_size": side, "do_center_crop": True,
    }  # fmt: skip
