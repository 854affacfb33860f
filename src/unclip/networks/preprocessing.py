"""CLIP's image preprocessing: its configuration, and the form for images that are tensors.

Training and generated images are tensors in [-1, 1] already; files and Pillow images go through
`data.transforms`, which follows the same configuration.

Shapes: N batch, C = 3 channels, H height, W width, n side of a square image in pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

import torch.nn.functional as F
from torch import Tensor

from unclip.checks import shown
from unclip.config import Between, Checked, Positive, Side, from_mapping, to_mapping
from unclip.pixels import to_levels

Mean = Annotated[float, Between(-1e3, 1e3)]

# Keys that other programs write into preprocessor_config.json, with the only values that mean what
# this class does; None accepts any value.
_FOREIGN: dict[str, tuple[Any, ...] | None] = {
    "image_processor_type": ("CLIPImageProcessor", "CLIPImageProcessorFast"),
    "feature_extractor_type": ("CLIPFeatureExtractor", "CLIPImageProcessor"),
    "processor_class": None,
    "_valid_processor_keys": None,
    "data_format": ("channels_first",),
    "default_to_square": (False,),
    "do_pad": (False,),
}


@dataclass(frozen=True)
class ImageProcessorConfig(Checked):
    """The fields of Hugging Face's preprocessor_config.json, with CLIP's values as defaults.

    size: n or {"shortest_edge": n} keeps the aspect ratio, {"height": h, "width": w} does not.
    crop_size: n or {"height": n, "width": n}. resample: Pillow's number of the filter, 3 = bicubic.
    image_mean, image_std: per channel, for values in [0, 1].
    """

    do_resize: bool = True
    size: Side | Mapping[str, Side] = 224
    resample: Annotated[int, Between(0, 5)] = 3
    do_center_crop: bool = True
    crop_size: Side | Mapping[str, Side] = 224
    do_rescale: bool = True
    rescale_factor: Positive = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[Mean, Mean, Mean] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[Positive, Positive, Positive] = (0.26862954, 0.26130258, 0.27577711)
    do_convert_rgb: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        size, crop = self.size, self.crop_size
        size = {"shortest_edge": size} if isinstance(size, int) else size
        crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
        if set(size) not in ({"shortest_edge"}, {"height", "width"}):
            raise ValueError(
                f"size is {shown(size)}; it must be n, shortest_edge, or height and width"
            )
        if set(crop) != {"height", "width"} or crop["height"] != crop["width"]:
            raise ValueError(f"crop_size is {shown(crop)}; it must be n, or equal height and width")
        object.__setattr__(self, "size", dict(size))
        object.__setattr__(self, "crop_size", dict(crop))

    @classmethod
    def for_clip(cls, image_size: int) -> "ImageProcessorConfig":
        """What a CLIP for images of `image_size` pixels a side takes."""
        return cls(size=image_size, crop_size=image_size)

    @classmethod
    def from_json(
        cls, mapping: Mapping[str, Any], where: str = "preprocessor_config.json"
    ) -> "ImageProcessorConfig":
        """From the contents of a preprocessor_config.json; ValueError names an unknown key."""
        known = {field.name for field in fields(cls)}
        ours = {key: value for key, value in mapping.items() if key in known or value is not None}
        for key in set(ours) - known:
            allowed = _FOREIGN.get(key, ())
            value = ours[key] if allowed == () else ours.pop(key)
            if allowed and value not in allowed:
                raise ValueError(f"{where}: {key} = {shown(value)} is not how CLIP prepares images")
        return from_mapping(cls, ours, where)

    def to_json(self) -> dict[str, Any]:
        """The contents of a preprocessor_config.json, for transformers' CLIPImageProcessor too."""
        return {**to_mapping(self), "image_processor_type": "CLIPImageProcessor"}

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after the resize step."""
        assert isinstance(self.size, Mapping)
        if not self.do_resize:
            return height, width
        if "height" in self.size:
            return self.size["height"], self.size["width"]
        shortest = self.size["shortest_edge"]
        longest = int(shortest * max(height, width) / min(height, width))  # truncated, as published
        return (shortest, longest) if height <= width else (longest, shortest)

    def crop_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) after resizing; reaches outside where the image is smaller."""
        assert isinstance(self.crop_size, Mapping)
        if not self.do_center_crop:
            return 0, 0, height, width
        side = self.crop_size["height"]
        top, left = (height - side) // 2, (width - side) // 2
        return top, left, top + side, left + side


def preprocess(images: Tensor, config: ImageProcessorConfig) -> Tensor:
    """(N, 3, H, W) in [-1, 1] -> (N, 3, n, n) normalised; what CLIP takes.

    Differentiable; stays on the device of `images`. Bicubic and bilinear only, antialiased;
    overshoot is clamped to [-1, 1], as 8-bit images clamp it.
    """
    assert images.ndim == 4, f"expected (N, 3, H, W), got {tuple(images.shape)}"
    assert images.shape[1] == 3, f"expected (N, 3, H, W), got {tuple(images.shape)}"
    assert images.is_floating_point(), "expected floats in [-1, 1]"
    modes = {2: "bilinear", 3: "bicubic"}
    if config.resample not in modes:
        raise ValueError(f"resample = {config.resample}: tensors know 2 (bilinear) and 3 (bicubic)")
    height, width = config.resized(images.shape[2], images.shape[3])
    images = images.float()
    if (height, width) != tuple(images.shape[2:]):
        mode = modes[config.resample]
        images = F.interpolate(images, (height, width), mode=mode, antialias=True)
        images = images.clamp(-1.0, 1.0)
    top, left, bottom, right = config.crop_box(height, width)
    padding = (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0))
    images = F.pad(images, padding, value=-1.0)  # black
    top, left = max(top, 0), max(left, 0)
    images = images[:, :, top : bottom + padding[2], left : right + padding[0]]
    return normalise(to_levels(images), config)


def normalise(levels: Tensor, config: ImageProcessorConfig) -> Tensor:
    """(N, 3, H, W) in [0, 255] -> rescaled and normalised as the config says."""
    if config.do_rescale:
        levels = levels * config.rescale_factor
    if config.do_normalize:
        mean = levels.new_tensor(config.image_mean).view(1, 3, 1, 1)
        std = levels.new_tensor(config.image_std).view(1, 3, 1, 1)
        levels = (levels - mean) / std
    return levels
