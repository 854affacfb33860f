"""The upsamplers: attention-free U-Nets that see the small image beside the noisy one.

"We condition on the downsampled input by concatenating it" after bicubic upsampling (paper section
2.1). They are fully convolutional: trained on crops, applied at full size.

Shapes: N samples, h and w pixels of the small image, H and W of the large one.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.networks.unet_config import UNetConfig, adm_config

# An upsampler predicts noise only: the small image and the noisy large one in, 3 channels out.
_SIZES: dict[str, tuple[int, tuple[int, ...], int, int, float]] = {
    #              size  widths                         layers groups dropout
    "tiny":       (32,   (16, 24),                      1,     8,     0.0),
    "mini":       (128,  (16, 32, 64, 96),              1,     8,     0.0),
    "small":      (128,  (32, 64, 128, 192),            1,     16,    0.0),
    "medium":     (256,  (64, 128, 192, 256),           2,     32,    0.1),
    "large":      (256,  (192, 384, 576, 768),          3,     32,    0.1),
    "karlo":      (256,  (320, 640, 960, 1280),         3,     32,    0.0),
    "paper-256":  (256,  (320, 640, 960, 1280),         3,     32,    0.1),
    "small-1024": (1024, (32, 32, 64, 64, 128, 128),    2,     16,    0.0),
    "paper-1024": (1024, (192, 192, 384, 384, 768, 768), 2,    32,    0.0),
}  # fmt: skip
UPSAMPLERS: dict[str, UNetConfig] = {
    name: adm_config(size, widths, layers, in_channels=6, groups=groups, dropout=dropout)
    for name, (size, widths, layers, groups, dropout) in _SIZES.items()
}


def _sizes(**rows: str) -> dict[str, dict[str, Any]]:
    columns = ("widths", "layers", "groups", "dropout")
    return {name: dict(zip(columns, _SIZES[row][1:], strict=True)) for name, row in rows.items()}


SIZES = _sizes(
    tiny="tiny", mini="mini", small="small", medium="medium", large="large", karlo="karlo",
    paper="paper-256",
)  # fmt: skip
SIZES_1024 = _sizes(tiny="tiny", small="small-1024", paper="paper-1024")
"""What `network.size` stands for, by the names of the settings of first and second upsampler."""


def upsample_bicubic(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, 3, h, w) to `size` (H, W), as the published layout defines it.

    The result may leave [-1, 1] a little. It is the same at every step: resize once per image.
    """
    return F.interpolate(image, size=size, mode="bicubic", align_corners=False, antialias=True)


def upsampler_input(x: Tensor, upsampled: Tensor) -> Tensor:
    """What the U-Net takes: noisy `x` (N, 3, H, W) before the upsampled image -> (N, 6, H, W)."""
    return torch.cat([x, upsampled.to(x.dtype)], dim=1)
