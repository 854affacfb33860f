"""Inception v3 (Szegedy et al., arXiv 1512.00567), whose last pooled features FID began with.

A folder with safetensors under torchvision's and timm's names, and a config.json with "model_type":
"inception_v3" and, if it is the network of 2015 that FID was defined with (TensorFlow's, as
pytorch-fid publishes it), "variant": "fid". That one leaves padding out of its averages, and takes
the largest value instead of the average in its last block. Images are resized as everywhere here,
antialiased, which the FID of 2017 did not do: figures differ by that alone (Parmar, Zhang and Zhu,
arXiv 2104.11222).

Attributes are named as the published tensors are. Shapes: N images, C channels, n pixels a side.
"""

import re
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.checks import shown
from unclip.device.shapes import on_meta
from unclip.evaluation.features.extractor import Parts
from unclip.evaluation.features.preprocessors import processor_of
from unclip.evaluation.features.weights import Norm, convolved, fill
from unclip.networks.preprocessing import ImageProcessorConfig

WIDTH: Final = 2048
VARIANTS: Final = ("torchvision", "fid")
_UNWANTED: Final = re.compile(r"(AuxLogits|fc)\.|.*\.num_batches_tracked$")
_HALF = (0.5, 0.5, 0.5)  # pixels in [-1, 1]
_PROCESSOR: Final = ImageProcessorConfig(
    size=299, crop_size=299, resample=2, image_mean=_HALF, image_std=_HALF
)


class Conv(nn.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(
        self,
        width: int,
        out: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(width, out, kernel, stride, bias=False)
        self.bn = Norm(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(convolved(x, self.conv, self.bn, self.padding), inplace=True)


class Mixed(nn.Module):
    """Branches side by side, (N, C, n, n) → (N, C', n', n').

    Args:
        branches: names of the convolutions that follow each other; the last of them may be several
            that all see the same, in a tuple.
        pool: of the branch that pools: "mean", "mean of pixels" (without padding), "max", or "max
            of every other" pixel, without a convolution.
        convs: the convolutions by name; "branch_pool" is the pooling branch's.
    """

    def __init__(
        self, branches: tuple[tuple[str | tuple[str, str], ...], ...], pool: str, **convs: Conv
    ) -> None:
        super().__init__()
        self.branches, self.pool = branches, pool
        for name, conv in convs.items():
            self.add_module(name, conv)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            h = x
            for name in branch:
                if isinstance(name, tuple):
                    h = torch.cat([self.get_submodule(one)(h) for one in name], dim=1)
                else:
                    h = self.get_submodule(name)(h)
            outputs.append(h)
        return torch.cat([*outputs, self._pooled(x)], dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "max of every other":
            return F.max_pool2d(x, 3, 2)
        if self.pool == "max":
            x = F.max_pool2d(x, 3, 1, 1)
        else:
            x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=self.pool == "mean")
        pooled: Tensor = self.get_submodule("branch_pool")(x)
        return pooled


def _a(width: int, pooled: int, pool: str) -> Mixed:
    """35 × 35."""
    return Mixed(
        (
            ("branch1x1",),
            ("branch5x5_1", "branch5x5_2"),
            ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        ),
        pool,
        branch1x1=Conv(width, 64),
        branch5x5_1=Conv(width, 48),
        branch5x5_2=Conv(48, 64, 5, padding=2),
        branch3x3dbl_1=Conv(width, 64),
        branch3x3dbl_2=Conv(64, 96, 3, padding=1),
        branch3x3dbl_3=Conv(96, 96, 3, padding=1),
        branch_pool=Conv(width, pooled),
    )


def _b(width: int) -> Mixed:
    """35 × 35 → 17 × 17."""
    return Mixed(
        (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")),
        "max of every other",
        branch3x3=Conv(width, 384, 3, 2),
        branch3x3dbl_1=Conv(width, 64),
        branch3x3dbl_2=Conv(64, 96, 3, padding=1),
        branch3x3dbl_3=Conv(96, 96, 3, 2),
    )


def _c(width: int, inner: int, pool: str) -> Mixed:
    """17 × 17, with filters of 7 × 1 and 1 × 7."""
    row: dict[str, Any] = {"kernel": (1, 7), "padding": (0, 3)}
    column: dict[str, Any] = {"kernel": (7, 1), "padding": (3, 0)}
    return Mixed(
        (
            ("branch1x1",),
            tuple(f"branch7x7_{k}" for k in (1, 2, 3)),
            tuple(f"branch7x7dbl_{k}" for k in (1, 2, 3, 4, 5)),
        ),
        pool,
        branch1x1=Conv(width, 192),
        branch7x7_1=Conv(width, inner),
        branch7x7_2=Conv(inner, inner, **row),
        branch7x7_3=Conv(inner, 192, **column),
        branch7x7dbl_1=Conv(width, inner),
        branch7x7dbl_2=Conv(inner, inner, **column),
        branch7x7dbl_3=Conv(inner, inner, **row),
        branch7x7dbl_4=Conv(inner, inner, **column),
        branch7x7dbl_5=Conv(inner, 192, **row),
        branch_pool=Conv(width, 192),
    )


def _d(width: int) -> Mixed:
    """17 × 17 → 8 × 8."""
    return Mixed(
        (("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{k}" for k in (1, 2, 3, 4))),
        "max of every other",
        branch3x3_1=Conv(width, 192),
        branch3x3_2=Conv(192, 320, 3, 2),
        branch7x7x3_1=Conv(width, 192),
        branch7x7x3_2=Conv(192, 192, (1, 7), padding=(0, 3)),
        branch7x7x3_3=Conv(192, 192, (7, 1), padding=(3, 0)),
        branch7x7x3_4=Conv(192, 192, 3, 2),
    )


def _e(width: int, pool: str) -> Mixed:
    """8 × 8, with filters of 3 × 1 beside those of 1 × 3."""
    row: dict[str, Any] = {"kernel": (1, 3), "padding": (0, 1)}
    column: dict[str, Any] = {"kernel": (3, 1), "padding": (1, 0)}
    return Mixed(
        (
            ("branch1x1",),
            ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
            ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
        ),
        pool,
        branch1x1=Conv(width, 320),
        branch3x3_1=Conv(width, 384),
        branch3x3_2a=Conv(384, 384, **row),
        branch3x3_2b=Conv(384, 384, **column),
        branch3x3dbl_1=Conv(width, 448),
        branch3x3dbl_2=Conv(448, 384, 3, padding=1),
        branch3x3dbl_3a=Conv(384, 384, **row),
        branch3x3dbl_3b=Conv(384, 384, **column),
        branch_pool=Conv(width, 192),
    )


class InceptionV3(nn.Module):
    """Images (N, 3, n, n) in [-1, 1], n ≥ 75 → features (N, 2048)."""

    def __init__(self, variant: str = "torchvision") -> None:
        super().__init__()
        fid = variant == "fid"
        mean = "mean of pixels" if fid else "mean"
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b = _a(192, 32, mean)
        self.Mixed_5c = _a(256, 64, mean)
        self.Mixed_5d = _a(288, 64, mean)
        self.Mixed_6a = _b(288)
        self.Mixed_6b = _c(768, 128, mean)
        self.Mixed_6c = _c(768, 160, mean)
        self.Mixed_6d = _c(768, 160, mean)
        self.Mixed_6e = _c(768, 192, mean)
        self.Mixed_7a = _d(768)
        self.Mixed_7b = _e(1280, mean)
        self.Mixed_7c = _e(2048, "max" if fid else mean)

    def forward(self, images: Tensor) -> Tensor:
        x = images.contiguous(memory_format=torch.channels_last)
        for name, layer in self.named_children():
            x = layer(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        return x.mean(dim=(2, 3))


def open_inception(folder: Path, config: dict[str, Any]) -> Parts:
    """Of a folder that says which variant it is; torchvision's if it does not."""
    variant = config.get("variant", "torchvision")
    if variant not in VARIANTS:
        raise ValueError(
            f"{folder / 'config.json'}: variant is {shown(variant)}; it must be one of "
            f"{', '.join(VARIANTS)}"
        )
    with on_meta():
        network = InceptionV3(variant)
    fill(network, folder, lambda key: None if _UNWANTED.match(key) else key)
    return Parts(network, processor_of(folder, _PROCESSOR), WIDTH, f"pool3 ({variant})")
