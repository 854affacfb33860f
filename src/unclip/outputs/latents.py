"""Files of latents and of embeddings, checked before anything is computed from them.

`latents.safetensors` holds `z_i` (N, D) and `x_T` (N, 3, h, h), and in its header the model's
fingerprint and the steps of the inversion. Embeddings are (N, D): an array in a .npy file, or the
tensor `embeddings` of a .safetensors file.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from unclip.checks import many, of_kind, printable, whole_number
from unclip.files import (
    as_path,
    open_regular,
    read_facts,
    read_safetensors,
    whole,
    write_safetensors,
)

_FORMAT = "unclip-latents-1"
_MOST = 2**28  # numbers, in a file that may be sparse: of 1 GiB as floats


@dataclass(frozen=True)
class Latents:
    """(z_i, x_T) of N images: what is in them, and the noise that makes up the rest (section 3).

    Args:
        z_i: (N, D) CLIP image embeddings.
        x_T: (N, 3, h, h) noise, h pixels at the decoder's resolution.
        steps: of DDIM, with which x_T was found; others lead back less exactly.
        model: fingerprint of the model that it belongs to.

    Raises:
        ValueError: no tensors of floats, other shapes, NaN or infinite values; steps that are none.
    """

    z_i: Tensor
    x_T: Tensor  # noqa: N815  (the paper's name)
    steps: int
    model: str = ""

    def __post_init__(self) -> None:
        for name in ("z_i", "x_T"):
            tensor = of_kind(getattr(self, name), Tensor, name, "a tensor")
            object.__setattr__(self, name, finite_floats(tensor, name))
        shapes = tuple(self.z_i.shape), tuple(self.x_T.shape)
        noise = (len(self.z_i) if self.z_i.ndim else 0, 3, shapes[1][-1] if shapes[1] else 0)
        if len(shapes[0]) != 2 or 0 in shapes[0] or shapes[1] != (*noise, noise[2]):
            raise ValueError(f"z_i {shapes[0]} and x_T {shapes[1]} are no latents")
        object.__setattr__(self, "steps", whole_number(self.steps, "steps", 1))
        of_kind(self.model, str, "model", "a fingerprint")

    def __len__(self) -> int:
        return len(self.z_i)

    def save(self, path: str | Path) -> None:
        """Write `latents.safetensors`, whole or not at all.

        Raises:
            ValueError: the place cannot be written.
        """
        facts = {
            "unclip": _FORMAT,
            "model": self.model,
            "size": str(self.x_T.shape[-1]),
            "steps": str(self.steps),
        }
        write_safetensors(as_path(path, "path"), {"z_i": self.z_i, "x_T": self.x_T}, facts)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: no such file, no latents, or latents that are damaged.
        """
        path = _there(path)
        facts, tensors = read_facts(path), read_safetensors(path)
        steps = facts.get("steps", "")
        if (
            facts.get("unclip") != _FORMAT
            or set(tensors) != {"z_i", "x_T"}
            or not (steps.isdecimal() and len(steps) < 10)
        ):
            raise ValueError(f"{path} holds no latents; `unclip invert` writes them")
        _check_size(path, sum(tensor.numel() for tensor in tensors.values()))
        z_i, x_T = (tensors[key].clone() for key in ("z_i", "x_T"))  # noqa: N806
        try:
            return cls(z_i, x_T, int(steps), facts.get("model", ""))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def suiting(self, settings: Any) -> Any:
        """`Settings`, where they leave it open, as these latents lead back to their images."""
        if not hasattr(settings, "for_reconstruction"):
            raise ValueError(f"settings must be a Settings, not {type(settings).__name__}")
        return settings.for_reconstruction(self.steps)

    def check(self, width: int, size: int, model: str) -> None:
        """Refuse latents of another model.

        Args:
            width, size: the model's D, and its decoder's h.
            model: its fingerprint; an empty one, or latents that have none, are not compared.
        """
        width, size = (whole_number(n, "a size", 1, 2**31) for n in (width, size))
        of_kind(model, str, "model", "a fingerprint")
        shapes = (self.z_i.shape[1], *self.x_T.shape[1:])
        if shapes != (width, 3, size, size):
            raise ValueError(
                f"the latents have width {shapes[0]} and {shapes[-1]} pixels, this model {width} "
                f"and {size}: they are of another model"
            )
        if self.model and model and self.model != model:
            raise ValueError(
                f"the latents were made by another model ({printable(self.model[:64])}, this one "
                f"is {printable(model[:64])}); "
                "invert the image again"
            )


def check_embeddings(embeddings: Any, width: int, name: str = "image_embeddings") -> Tensor:
    """Embeddings (N, D) or one (D,), from a tensor or an array of floats, as float32 (N, D).

    Raises:
        ValueError: another shape, width or type; NaN or infinite values.
    """
    if not isinstance(embeddings, Tensor | np.ndarray):
        raise ValueError(f"{name} must be a tensor or an array, not {type(embeddings).__name__}")
    embeddings = dense(embeddings, name) if isinstance(embeddings, Tensor) else embeddings
    shape = tuple(embeddings.shape)
    if len(shape) not in (1, 2) or 0 in shape:
        raise ValueError(f"{name} has the shape {shape}; (N, {width}) is needed")
    if shape[-1] != width:
        raise ValueError(
            f"{name} has width {shape[-1]}, but this model's embeddings have width {width}"
        )
    if isinstance(embeddings, np.ndarray):
        if embeddings.dtype.kind != "f":
            raise ValueError(f"{name} holds {embeddings.dtype} values; embeddings are floats")
        with np.errstate(over="ignore"):  # too large for float32: refused below
            embeddings = torch.from_numpy(embeddings.astype(np.float32))
    return finite_floats(embeddings, name).view(-1, width)


def check_noise(start: Any, count: int, size: int) -> Tensor:
    """x_T (N, 3, h, h), N and h being `count` and `size`, as float32.

    Raises:
        ValueError: no tensor of floats, another shape, NaN or infinite values.
    """
    start = dense(of_kind(start, Tensor, "start", "a tensor"), "start")
    if start.shape != (count, 3, size, size):
        raise ValueError(
            f"start has the shape {tuple(start.shape)}; x_T of {many(count, 'embeddings')} is "
            f"({count}, 3, {size}, {size}) in this model"
        )
    return finite_floats(start, "start")


def read_embeddings(path: str | Path, width: int, clip: str = "") -> Tensor:
    """Embeddings (N, D) of a .npy or .safetensors file, as float32.

    Args:
        width: D.
        clip: fingerprint of the CLIP whose they must be; an empty one, or a file that has none, is
            not compared.

    Raises:
        ValueError: no such file, not one of these kinds (nothing pickled is read), or embeddings
            that `check_embeddings` refuses, or of another CLIP.
    """
    path = _there(path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with open_regular(path) as file:
            if file.read(2) == b"PK":
                raise ValueError(f"{path} is an archive, not a .npy file")
        try:  # mapped: a header that promises more than the file holds costs no memory
            with np.errstate(over="ignore"):  # of values that 64 bits do not count
                array = np.lib.format.open_memmap(path, mode="r")
        except Exception:  # a damaged header ends in errors of many kinds
            raise ValueError(f"{path} is not a whole .npy file of numbers") from None
        _check_size(path, array.size)
        return check_embeddings(array, width, str(path))
    if suffix != ".safetensors":
        raise ValueError(f"{path} ends neither in .npy nor in .safetensors")
    tensors = read_safetensors(path)
    if "embeddings" not in tensors:
        if {"z_i", "x_T"} <= set(tensors):
            raise ValueError(f"{path} holds latents; `unclip vary` and `unclip edit` take them")
        names = ", ".join(sorted(tensors)[:5]) or "nothing"
        raise ValueError(f"{path} holds {names}; the tensor must be called 'embeddings'")
    theirs = read_facts(path).get("clip", "")
    if clip and theirs and clip != theirs:
        raise ValueError(
            f"{path} holds embeddings of another model's CLIP ({printable(theirs[:64])}, this one "
            f"is {printable(clip[:64])}); embed anew with this model"
        )
    _check_size(path, tensors["embeddings"].numel())
    return check_embeddings(tensors["embeddings"].clone(), width, str(path))


def write_embeddings(path: Path, embeddings: Tensor, names: Sequence[str], clip: str) -> None:
    """Write (N, D) as .npy or .safetensors, float32, whole or not at all.

    Args:
        names: what each row is of; kept in the header of a .safetensors file.
        clip: fingerprint of the CLIP that made them, kept there too. A .npy file has no place for
            either.

    Raises:
        ValueError: another ending, or a place that cannot be written.
    """
    if path.suffix.lower() not in (".npy", ".safetensors"):
        raise ValueError(f"{path} does not end in .npy or .safetensors")
    if path.suffix.lower() == ".npy":
        with whole(path) as partial, partial.open("wb") as file:
            np.save(file, embeddings.float().cpu().numpy(), allow_pickle=False)
        return
    facts = {"clip": clip, "names": json.dumps(list(names))}
    write_safetensors(path, {"embeddings": embeddings.float()}, facts)


def _check_size(path: Path, numbers: int) -> None:
    if numbers > _MOST:
        raise ValueError(
            f"{path} holds {numbers:,} numbers, more than the {_MOST:,} that are read at once"
        )


def _there(path: str | Path) -> Path:
    path = as_path(path, "path")
    if not path.is_file():
        raise ValueError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}")
    return path


def finite_floats(tensor: Tensor, name: str) -> Tensor:
    """As float32, in which nothing may be infinite."""
    tensor = dense(tensor, name)
    if not tensor.is_floating_point():
        raise ValueError(f"{name} holds {tensor.dtype} values; floats are needed")
    tensor = tensor.float()
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds NaN or infinite values")
    return tensor


def dense(tensor: Tensor, name: str) -> Tensor:
    """A tensor whose values are all in memory, as they are of sparse and of meta tensors not."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested or tensor.is_quantized:
        raise ValueError(f"{name} is a tensor without plain values; floats are needed")
    return tensor.detach()
