"""Images as callers give them: Pillow images, paths, arrays and tensors, one or several.

    array    H × W, H × W × C or N × H × W × C       uint8, bool, or floats in [0, 1]
    tensor   H × W, C × H × W or N × C × H × W       the same
    path     of a picture of any kind that `open_image` opens

C is 1 (grey), 3 (RGB) or 4 (RGBA, put on white). All become Pillow images, of 8 bits a channel:
floats are rounded to them, as they would be in a file.
"""

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from unclip.checks import listed, shown
from unclip.data.transforms import open_image, upright

Picture: TypeAlias = Image.Image | str | os.PathLike[str] | npt.NDArray[Any] | Tensor
Images: TypeAlias = Picture | Sequence[Picture]

_LONGEST = 200  # characters of a path that a sentence repeats
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_SHAPES = "arrays are H × W × 3 or N × H × W × 3, tensors 3 × H × W or N × 3 × H × W"


def check_images(image: Images, name: str = "an image") -> list[Image.Image]:
    """A list of Pillow images, read and upright, in the order of what is given.

    Args:
        name: how sentences call one of them.

    Raises:
        ValueError: there is none; one is no image, damaged, or has values outside [0, 1].
    """
    several = [image] if isinstance(image, np.ndarray | Tensor) else listed(image)
    if not several:
        raise ValueError("there is no image: give the one to vary")
    return [picture for one in several for picture in _read(one, name)]


def check_image(image: Picture, name: str = "an image") -> Image.Image:
    """The image of a call that takes a single one."""
    images = check_images([image], name)
    if len(images) != 1:
        raise ValueError(f"{name} is a batch of {len(images)}; this call takes one")
    return images[0]


def _read(one: Any, name: str) -> list[Image.Image]:
    if isinstance(one, Image.Image):
        return [upright(one)]
    if isinstance(one, np.ndarray | Tensor):
        return [_pillow(pixels) for pixels in _batch(one, name)]
    if isinstance(one, str | os.PathLike):
        path = os.fspath(one)
        if isinstance(path, str) and path.startswith(("http://", "https://")):
            raise ValueError(f"nothing is fetched: download {shown(path)}, and give the file")
        return [open_image(path, name=str(path) if len(path) < _LONGEST else shown(path))]
    raise ValueError(
        f"{name} must be a Pillow image, a path, an array or a tensor, not {type(one).__name__}"
    )


def _batch(one: npt.NDArray[Any] | Tensor, name: str) -> npt.NDArray[np.uint8]:
    """(N, H, W, C) of an array or tensor, as bytes."""
    array = _array(one, name)
    if isinstance(one, Tensor) and array.ndim > 2:  # channels stand before rows there
        array = np.moveaxis(array, -3, -1)
    array = array[..., None] if array.ndim == 2 else array
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[-1] not in _MODES or 0 in array.shape:
        kind = "a tensor" if isinstance(one, Tensor) else "an array"
        raise ValueError(f"{name} is {kind} of the shape {tuple(one.shape)}; {_SHAPES}")
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind != "f":
        raise ValueError(f"{name} holds {array.dtype} values; give uint8, or floats in [0, 1]")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):
        hint = " ((x + 1) / 2 takes what is in [-1, 1] there)" if low >= -1 and high <= 1 else ""
        raise ValueError(
            f"{name} holds floats from {low:.4g} to {high:.4g}; they must lie in [0, 1]{hint}"
        )
    levels: npt.NDArray[np.uint8] = np.rint(array * 255).astype(np.uint8)
    return levels


def _array(one: npt.NDArray[Any] | Tensor, name: str) -> npt.NDArray[Any]:
    if not isinstance(one, Tensor):
        return np.asarray(one)
    plain = one.layout == torch.strided and not (one.is_meta or one.is_nested or one.is_quantized)
    if not plain:
        raise ValueError(f"{name} is a tensor without plain values; {_SHAPES}")
    tensor = one.detach().cpu()
    array: npt.NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array  # numpy has no bf16


def _pillow(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """(H, W, C) → Pillow."""
    mode = _MODES[pixels.shape[-1]]
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if mode == "L" else pixels), mode)
