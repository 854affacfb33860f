"""Features that are kept on the disk: what was computed before a kill, or for another metric, is
not computed again.

They are named by the extractor's hash and by the pixels of a batch, so that nothing that changes
can be mistaken for what was there before.

Shapes: N images of a batch, H × W pixels, D width of features.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from unclip.evaluation.features.extractor import Extractor
from unclip.files import read_safetensors, write_safetensors
from unclip.pixels import to_uint8

_KEY: Final = "features"


def kept_features(
    extractor: Extractor,
    batches: Iterable[Tensor],
    folder: Path,
    progress: Callable[[int], Any] = lambda count: None,
) -> Tensor:
    """Features (M, D) of batches of images (N, 3, H, W) in [-1, 1] that are bytes originally.

    Args:
        folder: where they are kept.
        progress: is told how many more images are done.

    Raises:
        ValueError: there is no image, or the folder cannot be written.
    """
    found = []
    for images in batches:
        pixels = to_uint8(images.cpu()).contiguous()
        digest = sha256(f"{tuple(pixels.shape)}".encode() + pixels.numpy().tobytes()).hexdigest()
        file = folder / extractor.hash / f"{digest[:24]}.safetensors"
        features = _read(file, len(images), extractor.dimensions)
        if features is None:
            features = extractor(images)
            _write(file, features)
        found.append(features)
        progress(len(images))
    if not found:
        raise ValueError("there are no images to take features of")
    return torch.cat(found)


def _read(file: Path, count: int, width: int) -> Tensor | None:
    """What is kept, or None: a damaged file is as good as none."""
    if not file.is_file():
        return None
    with suppress(ValueError):
        kept = read_safetensors(file).get(_KEY)
        if kept is not None and kept.shape == (count, width):
            return kept.clone()
    return None


def _write(file: Path, features: Tensor) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {file.parent}: {error.strerror}") from None
    write_safetensors(file, {_KEY: features})
