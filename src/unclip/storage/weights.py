"""A component's weights: one safetensors file or several, of one variant, read strictly.

Every tensor is asked for by name and shape; files are memory-mapped and read once; pickled weights
are refused.
"""

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from unclip.checks import shown
from unclip.files import opened_safetensors, read_json, write_json, write_safetensors

_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# 0, 1, 2, …: a constant that older versions of the publishing library stored as a tensor.
COUNTED = ".embeddings.position_ids"
_STEMS = ("model", "diffusion_pytorch_model")
_SHARD = re.compile(r"-\d+-of-\d+$")
_CONVERTED_AT_ONCE = 2**28  # bytes
# Some CPUs' kernels add up small products in another order where weights do not begin at a multiple
# of 64 bytes, as they may in a file: images of a model and of its copy would differ in a last bit.
_ALIGNMENT = 64
_SMALL = 2**20  # bytes; larger weights stay in the file, which several processes share


def save_weights(
    weights: Mapping[str, Tensor], folder: Path, stem: str, max_shard_bytes: int
) -> None:
    """Write tensors as one safetensors file, or as several with an index."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in weights.items():
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        write_safetensors(folder / f"{stem}.safetensors", shards[0])
        return
    names = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(folder / name, shard)
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    write_json(
        folder / f"{stem}.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": where},
    )


def load_weights(
    module: nn.Module,
    folder: Path,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
) -> None:
    """Give `module` the weights in `folder`: same keys, same shapes, nothing left over.

    Tensors whose names begin as `module.FLOAT32` says are read in fp32, whatever `dtype` is.

    Raises:
        ValueError: no safetensors file, a damaged one, a tensor that is missing, unknown or of
            another shape (named, with both shapes).
    """
    where = check_weights(module, folder, variant)
    exact = getattr(module, "FLOAT32", ())  # tables, which are worth their precision
    loaded: dict[str, Tensor] = {}
    for file, keys in where.items():
        tables = [key for key in keys if key.startswith(tuple(exact))]
        loaded |= _converted(file, [key for key in keys if key not in tables], dtype)
        loaded |= _converted(file, tables, torch.float32)
    module.load_state_dict(loaded, strict=True, assign=True)


def check_weights(
    module: nn.Module, folder: Path, variant: str | None = None
) -> dict[Path, list[str]]:
    """Which keys each weight file of `folder` gives `module`; reads the files' headers only.

    Raises:
        ValueError: as for `load_weights`.
    """
    wanted = module.state_dict()
    where: dict[Path, list[str]] = {}
    known: set[str] = set()
    for file in weight_files(folder, variant):
        where[file] = []
        for key, shape, kind in _header(file):
            if key.endswith(COUNTED) and key not in wanted:
                continue
            if key not in wanted:
                raise ValueError(
                    f"{file} has a tensor {shown(key)} that this network does not have"
                )
            if key in known:
                raise ValueError(f"{file} has the tensor {key!r} a second time")
            if shape != tuple(wanted[key].shape):
                raise ValueError(
                    f"{file}: tensor {key!r} has shape {shown(shape)}, "
                    f"the config asks for {tuple(wanted[key].shape)}"
                )
            if not kind.startswith(("F", "BF")):
                raise ValueError(f"{file}: tensor {key!r} holds {kind}, not real numbers")
            known.add(key)
            where[file].append(key)
    missing = sorted(set(wanted) - known)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{folder} lacks the tensor {missing[0]!r}{more}")
    return where


def _header(file: Path) -> list[tuple[str, tuple[int, ...], str]]:
    """Key, shape and data type ("F32", "BF16", "I64", …) of every tensor of a file."""
    with opened_safetensors(file) as opened:
        slices = [(key, opened.get_slice(key)) for key in opened.keys()]  # noqa: SIM118
        return [(key, tuple(part.get_shape()), part.get_dtype()) for key, part in slices]


def _converted(file: Path, keys: list[str], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors of a file, mapped into memory where `dtype` is theirs, else converted; small ones
    begin at a multiple of 64 bytes.

    Converting opens the file anew after every so many bytes, which drops the pages read so far:
    the memory taken is that of the result, not of both.
    """
    result: dict[str, Tensor] = {}
    waiting = iter(keys)
    while len(result) < len(keys):
        read = 0
        with opened_safetensors(file) as opened:
            for key in waiting:
                tensor = opened.get_tensor(key)
                result[key] = _aligned(tensor if dtype is None else tensor.to(dtype))
                read += tensor.nbytes if result[key] is not tensor else 0
                if read > _CONVERTED_AT_ONCE:
                    break
    return result


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a small one that lies askew in its file as a copy that does not."""
    askew = tensor.nbytes <= _SMALL and tensor.data_ptr() % _ALIGNMENT
    return tensor.clone() if askew else tensor


def fingerprint_of(parts: Iterable[Mapping[str, Tensor]]) -> str:
    """16 hexadecimal digits for the weights of a component's files, or of networks.

    Of each tensor its name, shape and first 64 values go in, rounded to bf16: weights that were
    converted from one to another precision are the same model.
    """
    digest = sha256()
    for tensors in parts:
        for key in sorted(tensors):
            first = tensors[key].detach().flatten()[:64].to("cpu", torch.bfloat16)
            digest.update(f"{key} {tuple(tensors[key].shape)}".encode())
            digest.update(bytes(first.view(torch.uint8).numpy()))
    return digest.hexdigest()[:16]


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files of a component: one, or the shards that its index names.

    Args:
        variant: whose files are taken where they are there, e.g. "fp16"; else the plain ones.

    Raises:
        ValueError: there is no such file, more than one, or pickles only.
    """
    for wanted in dict.fromkeys([variant, None]):
        indices = sorted(folder.glob(f"*.safetensors.index{_dotted(wanted)}.json"))
        if indices:
            return _shards(indices[0])
        files = [
            file for file in sorted(folder.glob("*.safetensors")) if variant_of(file) == wanted
        ]
        standard = [file for file in files if file.stem.split(".")[0] in _STEMS]
        files = standard or files  # beside them, some folders have copies for other programs
        if len(files) == 1:
            return files
        if files:
            raise ValueError(
                f"{folder} holds {len(files)} weight files and no index that joins them"
            )
    others = variants(folder)
    if others:
        raise ValueError(
            f"{folder} holds weights of the variant {', '.join(others)} only; ask for it"
        )
    pickles = [file.name for file in folder.iterdir() if file.suffix in _PICKLES]
    if pickles:
        raise ValueError(
            f"{folder} holds only {pickles[0]}, a pickle, which can run code when opened and is "
            "never loaded; convert it to safetensors where you trust it"
        )
    raise ValueError(
        f"{folder} holds no safetensors weights; pickles (.bin, .ckpt, .pt) are never loaded"
    )


def variants(folder: Path) -> list[str]:
    """Names of the special weights that a component has, e.g. ["fp16"]."""
    return sorted({v for file in folder.glob("*.safetensors") if (v := variant_of(file))})


def variant_of(file: Path) -> str | None:
    """`model.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors` → "fp16"."""
    parts = _SHARD.sub("", file.name.removesuffix(".safetensors")).split(".")
    return parts[-1] if len(parts) > 1 else None


def _dotted(variant: str | None) -> str:
    return f".{variant}" if variant else ""


def _shards(index: Path) -> list[Path]:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise ValueError(f"{index} has no weight_map")
    there = {file.name: file for file in index.parent.iterdir() if file.is_file()}
    for name in where.values():
        if not isinstance(name, str) or name not in there:
            raise ValueError(f"{index} names {shown(name)}, which is not in {index.parent}")
    return [there[name] for name in sorted(set(where.values()))]
