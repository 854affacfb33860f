"""CLIP's image preprocessing: its configuration, and the form for images that are tensors.

Training and generated images are tensors in [-1, 1] already; files and Pillow images go through
`data.transforms`, which reads the same configuration.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageProcessorConfig:
    """The keys of preprocessor_config.json that matter; the defaults are OpenAI's CLIP.

    Images are resized so that the shorter side has `size` pixels (bicubic, antialiased), cut to the
    central `crop_size` square, scaled to [0, 1] and normalised per channel.
    """

    size: int = 224
    crop_size: int = 224
    image_mean: tuple[float, float, float] = _MEAN
    image_std: tuple[float, float, float] = _STD

    @classmethod
    def for_clip(cls, image_size: int) -> Self:
        """What a CLIP of this input size takes."""
        return cls(size=image_size, crop_size=image_size)

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any], where: str = "preprocessor_config.json") -> Self:
        """Read old (`"size": 224`) and new (`"size": {"shortest_edge": 224}`) files."""
        for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
            if mapping.get(key, True) is not True:
                raise ValueError(f"{where}: {key} is off; only CLIP's full preprocessing is known")
        if mapping.get("resample", 3) != 3:
            raise ValueError(f"{where}: resample is {mapping['resample']}, not 3 (bicubic)")
        mean, std = (tuple(mapping.get(k, d)) for k, d in (("image_mean", _MEAN), ("image_std", _STD)))
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(f"{where}: image_mean and image_std must have three entries")
        size = _side(mapping.get("size", 224), "size", where)
        return cls(size, _side(mapping.get("crop_size", size), "crop_size", where), mean, std)

    def to_json(self) -> dict[str, Any]:
        """A preprocessor_config.json that `CLIPImageProcessor` reads."""
        return asdict(self) | {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": self.size},
            "crop_size": {"height": self.crop_size, "width": self.crop_size},
            "do_convert_rgb": True,
            "do_resize": True,
            "resample": 3,
            "do_center_crop": True,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
        }


def preprocess(images: Tensor, config: ImageProcessorConfig) -> Tensor:
    """Images (N, 3, H, W) in [-1, 1] → CLIP's input (N, 3, crop_size, crop_size)."""
    height, width = images.shape[-2:]
    shorter = min(height, width)
    if shorter != config.size:
        scale = config.size / shorter
        target = (round(height * scale), round(width * scale))
        images = F.interpolate(
            images, target, mode="bicubic", antialias=True, align_corners=False
        ).clamp(-1, 1)
    top, left = ((side - config.crop_size) // 2 for side in images.shape[-2:])
    images = images[..., top : top + config.crop_size, left : left + config.crop_size]
    mean = torch.tensor(config.image_mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(config.image_std, device=images.device).view(3, 1, 1)
    return ((images + 1) / 2 - mean) / std


def _side(value: Any, key: str, where: str) -> int:
    if isinstance(value, Mapping):
        sides = {value[k] for k in ("shortest_edge", "height", "width") if k in value}
        value = sides.pop() if len(sides) == 1 else None
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{where}: {key} must give one side length in pixels")
    return value
