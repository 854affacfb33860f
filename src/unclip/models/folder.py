"""The model folder: the one artefact that training writes and the pipeline reads.

A directory in the layout that diffusers uses for its unCLIP pipelines: `model_index.json`, and a
folder per component with `config.json` and safetensors weights. Loading is strict (every tensor, by
name and shape), weights are memory-mapped and read once, and pickled weights are refused. A
component is written whole under another name first and then renamed into place; what a killed
process leaves of that is cleared by the next one that writes.
"""

import filecmp
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from unclip.files import read_json, read_safetensors, write_json
from unclip.models.offload import Offload
from unclip.models.weights import (
    check_weights,
    fingerprint_of,
    load_weights,
    save_weights,
    weight_files,
)

INDEX = "model_index.json"
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
        """That of the weights of those components that are there: see `fingerprint_of`."""
        files = [
            file
            for component in components
            if self.has(component)
            for file in weight_files(self.component(component), self.variant)
        ]
        return fingerprint_of(map(read_safetensors, files))

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
