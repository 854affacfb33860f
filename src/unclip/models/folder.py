"""The model folder: the one artefact that training writes and the pipeline reads.

A directory in the layout that diffusers uses for its unCLIP pipelines: `model_index.json`, and a
folder per component with `config.json` and safetensors weights. Loading is strict (every tensor, by
name and shape), weights are memory-mapped and read once, and pickled weights are refused. A
component is written whole under another name first and then renamed into place; what a killed
process leaves of that is cleared by the next one that writes.
"""

import filecmp
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from unclip.models.offload import Offload

INDEX = "model_index.json"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# 0, 1, 2, …: a constant that older versions of the publishing library stored as a tensor.
_COUNTED = ".embeddings.position_ids"
_STEMS = ("model", "diffusion_pytorch_model")
_SHARD = re.compile(r"-\d+-of-\d+$")
_CONVERTED_AT_ONCE = 2**28  # bytes
M = TypeVar("M", bound=nn.Module)


class ModelFolder:
    """A model folder on disk.

    Args:
        path: the directory; it need not exist before something is saved.
        variant: which of several weights are read, e.g. "fp16"; a component without it gives its
            plain ones.
        offload: reads the weights of what is loaded when they are needed; now if left out.
    """

    def __init__(
        self, path: str | Path, variant: str | None = None, offload: Offload | None = None
    ) -> None:
        self.path = Path(path)
        self.variant = variant
        self.offload = offload

    def index(self) -> dict[str, Any]:
        """`model_index.json`: component name → [library, class]; keys with "_" are notes."""
        file = self.path / INDEX
        if not file.is_file():
            raise ValueError(
                f"{self.path} is not a model folder: it has no {INDEX}"
                if self.path.is_dir()
                else f"there is no model folder {self.path}"
            )
        index = read_json(file)
        for name, entry in index.items():
            if name.startswith("_") or not isinstance(entry, list):
                continue  # a note, or an argument of the pipeline such as a switch
            if Path(name).name != name or name == "..":
                raise ValueError(f"{file} names a component {name!r}, which is outside the folder")
            if len(entry) != 2 or not all(isinstance(x, str | None) for x in entry):
                raise ValueError(f"{file}: {name} is {entry!r}; it must be [library, class]")
        return index

    def has(self, component: str) -> bool:
        """Whether the index names the component and its folder is there."""
        if not (self.path / INDEX).is_file():
            return False
        entry = self.index().get(component)
        return isinstance(entry, list) and bool(entry[0]) and (self.path / component).is_dir()

    def config(self, component: str) -> dict[str, Any]:
        """The component's config.json (schedulers: scheduler_config.json)."""
        folder = self.component(component)
        for name in ("config.json", "scheduler_config.json", "preprocessor_config.json"):
            if (folder / name).is_file():
                return read_json(folder / name)
        raise ValueError(f"{folder} holds no config.json")

    def component(self, component: str) -> Path:
        """The component's folder, or a ValueError that says what is missing."""
        self.index()
        if not self.has(component):
            raise ValueError(f"the model {self.path} has no {component}")
        return self.path / component

    def load(
        self, component: str, network: type[M], config: Any, dtype: torch.dtype | None = None
    ) -> M:
        """Build `network(config)` and fill it with the component's weights, strictly.

        The network is built without memory and takes the mapped tensors as they are read, in the
        file's precision or in `dtype`.
        """
        with torch.device("meta"):
            module = network(config)
        path = self.component(component)
        if self.offload is not None:
            check_weights(module, path, self.variant)
            module.to(dtype)
            self.offload.manage(module, lambda: load_weights(module, path, dtype, self.variant))
        else:
            load_weights(module, path, dtype, self.variant)
        return module.eval()

    def save(
        self, component: str, entry: tuple[str, str], files: Mapping[str, Any],
        weights: Mapping[str, Tensor] | None = None, stem: str = "diffusion_pytorch_model",
        max_shard_bytes: int = 2**34,
    ) -> None:  # fmt: skip
        """Write a component whole, then enter it into the index.

        Args:
            component: its name, e.g. "decoder".
            entry: library and class for the index.
            files: JSON files by name.
            weights: tensors by key; left out for schedulers.
            stem: file name of the weights ("model" for transformers' components).
            max_shard_bytes: weights beyond this size are split over several files.
        """
        with self.replacing(component, entry) as folder:
            for name, content in files.items():
                write_json(folder / name, content)
            if weights is not None:
                save_weights(weights, folder, stem, max_shard_bytes)

    def fingerprint(self, *components: str) -> str:
        """16 hexadecimal digits for the weights of those components that are there.

        Of each tensor its name, shape and first 64 values go in, rounded to bf16: weights that were
        converted from one to another precision are the same model.
        """
        digest = sha256()
        files = [
            file
            for component in components
            if self.has(component)
            for file in weight_files(self.component(component), self.variant)
        ]
        for file in files:
            with _opened(file) as opened:
                for key in sorted(opened.keys()):
                    tensor = opened.get_tensor(key)
                    digest.update(f"{key} {tuple(tensor.shape)}".encode())
                    digest.update(bytes(tensor.flatten()[:64].bfloat16().view(torch.uint8).numpy()))
        return digest.hexdigest()[:16]

    def duplicate(self, component: str, name: str) -> None:
        """Enter a component a second time, as `name`; on one disk the files are stored once."""
        source = self.component(component)
        with self.replacing(name, tuple(self.index()[component])) as folder:
            for file in source.iterdir():
                try:
                    os.link(file, folder / file.name)
                except OSError:  # a file system without links
                    shutil.copyfile(file, folder / file.name)

    def same(self, component: str, other: str) -> bool:
        """Whether two components have the same weights, byte for byte."""
        pairs = [weight_files(self.component(name), self.variant) for name in (component, other)]
        return len(pairs[0]) == len(pairs[1]) and all(
            a.samefile(b) or filecmp.cmp(a, b, shallow=False) for a, b in zip(*pairs, strict=True)
        )

    @contextmanager
    def replacing(self, component: str, entry: tuple[str, str]) -> Iterator[Path]:
        """A fresh folder that takes the component's place when the block ends without error."""
        target = self.path / component
        fresh, old = (self.path / f".{component}.{state}" for state in ("new", "old"))
        if old.exists() and not target.exists():  # killed between the two renames below
            old.rename(target)
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            yield fresh
            if target.exists():
                target.rename(old)
            fresh.rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)
        self.update_index({component: list(entry)})

    def remove(self, component: str) -> None:
        """Take a component out of the index, and delete it."""
        with _locked(self.path):
            index = self.index()
            index.pop(component, None)
            index.pop(f"_{component}", None)  # its note
            write_json(self.path / INDEX, index)
        shutil.rmtree(self.path / component, ignore_errors=True)

    def update_index(self, entries: Mapping[str, Any]) -> None:
        """Put entries into `model_index.json`, creating it where there is none."""
        self.path.mkdir(parents=True, exist_ok=True)
        with _locked(self.path):
            there = (self.path / INDEX).is_file()
            index = self.index() if there else {"_class_name": "UnCLIPPipeline"}
            index.update(entries)
            write_json(self.path / INDEX, index)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time: two trainers may publish into one model folder."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def bundled(name: str) -> Path:
    """A folder that comes with the package: "model", "judge"."""
    return Path(__file__).parents[1] / "assets" / name


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; `ValueError` in one sentence if it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Another name to write `path` under: it is there whole when the block ends, or not at all.

    Raises:
        ValueError: the disk is full, or the place cannot be written.
    """
    from safetensors import SafetensorError

    partial = path.with_name(f".{path.name}.partial")  # a killed process's is written over
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the new name without its bytes
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot write {path}: {error}") from None
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None
) -> None:
    """Write tensors, and `facts` into the header; the file is there whole or not at all."""
    from safetensors.torch import save_file

    stored = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with whole(path) as partial:
        save_file(stored, partial, {"format": "pt", **(facts or {})})
        partial.chmod(0o644)  # the library makes files that nobody else can read


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
            if key.endswith(_COUNTED) and key not in wanted:
                continue
            if key not in wanted:
                raise ValueError(f"{file} has a tensor {key!r} that this network does not have")
            if key in known:
                raise ValueError(f"{file} has the tensor {key!r} a second time")
            if shape != tuple(wanted[key].shape):
                raise ValueError(
                    f"{file}: tensor {key!r} has shape {shape}, "
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
    with _opened(file) as opened:
        slices = [(key, opened.get_slice(key)) for key in opened.keys()]  # noqa: SIM118
        return [(key, tuple(part.get_shape()), part.get_dtype()) for key, part in slices]


def _converted(file: Path, keys: list[str], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors of a file, mapped into memory where `dtype` is theirs, else converted.

    Converting opens the file anew after every so many bytes, which drops the pages read so far:
    the memory taken is that of the result, not of both.
    """
    result: dict[str, Tensor] = {}
    waiting = iter(keys)
    while len(result) < len(keys):
        read = 0
        with _opened(file) as opened:
            for key in waiting:
                tensor = opened.get_tensor(key)
                result[key] = tensor if dtype is None else tensor.to(dtype)
                read += tensor.nbytes if result[key] is not tensor else 0
                if read > _CONVERTED_AT_ONCE:
                    break
    return result


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file; `ValueError` if it is truncated or none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is not a whole safetensors file: {error}") from None


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
    files = [index.parent / str(name) for name in sorted(set(where.values()), key=str)]
    for file in files:
        if file.parent != index.parent or not file.is_file():
            raise ValueError(f"{index} names {file.name}, which is not in {index.parent}")
    return files


def read_facts(file: Path) -> dict[str, str]:
    """What the header of a safetensors file says beside its tensors."""
    with _opened(file) as opened:
        return dict(opened.metadata() or {})


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file, memory-mapped; `ValueError` if it is truncated or no safetensors."""
    with _opened(file) as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
