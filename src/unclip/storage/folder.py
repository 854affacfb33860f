"""The model folder: the one artefact that training writes and the pipeline reads.

A directory in the layout that diffusers uses for its unCLIP pipelines: `model_index.json`, and a
folder per component with `config.json` and safetensors weights. Loading is strict (every tensor, by
name and shape), weights are memory-mapped and read once, and pickled weights are refused. What
belongs together is published together (`storage/publishing.py`), and the index notes what was
trained with what (`storage/belonging.py`).
"""

import filecmp
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from unclip.acceleration.offload import Offload
from unclip.checks import printable, shown
from unclip.device.shapes import on_meta
from unclip.files import (
    MAX_CONFIG,
    locked,
    private_folder,
    read_json,
    read_safetensors,
    real_path,
    write_json,
)
from unclip.storage import belonging
from unclip.storage.assets import bundled as bundled
from unclip.storage.publishing import INDEX, NEW, check_name, commit, complete, is_pending
from unclip.storage.weights import (
    check_weights,
    fingerprint_of,
    load_weights,
    save_weights,
    weight_files,
)

M = TypeVar("M", bound=nn.Module)
S = TypeVar("S")


@dataclass
class _Draft:
    """What a publication will change, while it is written."""

    private: Path
    anew: Collection[str]  # components that go unless they are written; all notes with them
    entries: dict[str, Any] = field(default_factory=dict)  # into the index
    removed: set[str] = field(default_factory=set)  # out of it

    def applied(self, index: dict[str, Any]) -> dict[str, Any]:
        """The index as it will be."""
        gone = {*self.removed, *self.anew}
        if self.anew:
            gone |= {name for name in index if name.startswith("_")}
        gone |= {f"_{name}" for name in self.removed}  # their notes
        return {key: entry for key, entry in index.items() if key not in gone} | self.entries


class ReplacedError(ValueError):
    """Weights that are read when they are needed are no more those that were opened."""


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
        self._draft: _Draft | None = None
        self._held = False  # the folder, by this object

    def index(self) -> dict[str, Any]:
        """`model_index.json`: component name → [library, class]; keys with "_" are notes."""
        file = self.path / INDEX
        check_links(self.path, file)
        with self.steady():
            there = read_json(file, MAX_CONFIG) if file.is_file() else None
        if self._draft is not None:
            there = self._draft.applied(there or {"_class_name": "UnCLIPPipeline"})
        if there is None:
            raise ValueError(
                f"{self.path} is not a model folder: it has no {INDEX}"
                if self.path.is_dir()
                else f"there is no model folder {self.path}"
            )
        for name, entry in there.items():
            if name.startswith("_") or not isinstance(entry, list):
                continue  # a note, or an argument of the pipeline such as a switch
            check_name(name, self.path)
            if len(entry) != 2 or not all(isinstance(x, str | None) for x in entry):
                raise ValueError(f"{file}: {name} is {shown(entry)}; it must be [library, class]")
        return there

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Nothing in the folder is replaced while the block reads it.

        Raises:
            ValueError: it was being replaced when its writer was killed, and this process may not
                complete that.
        """
        if self._held or not self.path.is_dir():
            yield
            return
        with ExitStack() as stack:
            while True:
                stack.enter_context(locked(self.path, shared=True))
                if not is_pending(self.path):
                    break
                stack.close()
                with self._alone():
                    pass
            self._held = True
            stack.callback(setattr, self, "_held", False)
            yield

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else reads or writes the folder while the block runs."""
        assert not self._held
        with locked(self.path):
            self._held = True
            try:
                complete(self.path)
                yield
            finally:
                self._held = False

    def is_written(self) -> bool:
        """Whether there is a model, or one that is being written here."""
        return self._draft is not None or (self.path / INDEX).is_file()

    def has(self, component: str) -> bool:
        """Whether the index names the component and its folder is there."""
        with self.steady():
            if not self.is_written():
                return False
            entry = self.index().get(component)
            return isinstance(entry, list) and bool(entry[0]) and self._place(component).is_dir()

    def _place(self, component: str) -> Path:
        """Where a component is, or will be written."""
        if self._draft is not None and (self._draft.private / NEW / component).is_dir():
            return self._draft.private / NEW / component
        return self.path / component

    def config(self, component: str) -> dict[str, Any]:
        """The component's config.json (schedulers: scheduler_config.json)."""
        folder = self.component(component)
        for name in ("config.json", "scheduler_config.json", "preprocessor_config.json"):
            if (folder / name).is_file():
                return read_json(folder / name, MAX_CONFIG)
        raise ValueError(f"{folder} holds no config.json")

    def component(self, component: str) -> Path:
        """The component's folder, or a ValueError that says what is missing, or lies elsewhere."""
        if not self.has(component):
            self.index()  # says so where there is no model at all
            raise ValueError(
                f"the model {self.path} has no {component}: it is not whole, or not trained so far"
            )
        folder = self._place(component)
        check_links(self.path, folder, *folder.iterdir())
        return folder

    def load(
        self, component: str, network: type[M], config: Any, dtype: torch.dtype | None = None,
        small: bool = False,
    ) -> M:  # fmt: skip
        """Build `network(config)` and fill it with the component's weights, strictly.

        The network is built without memory and takes the mapped tensors as they are read, in the
        file's precision or in `dtype`.

        Args:
            small: whether it stays in memory where others' weights are read when they are needed.
        """
        with on_meta():
            module = network(config)
        path = self.component(component)
        if self.offload is not None and not small:
            check_weights(module, path, self.variant)
            module.to(dtype)
            seen = _stamps(path, self.variant)

            def read() -> None:
                try:
                    same = _stamps(path, self.variant) == seen
                except (OSError, ValueError):  # it is gone
                    same = False
                if not same:
                    raise ReplacedError(f"{path} was replaced after it was opened; open it again")
                load_weights(module, path, dtype, self.variant)

            self.offload.manage(module, read)
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
                _link(file, folder / file.name)

    def copy(self, other: "ModelFolder", components: Collection[str]) -> None:
        """Take these components of another model over, byte for byte; equal files are stored once.

        Raises:
            ValueError: the other model lacks one of them.
        """
        with other.steady(), self.publishing():
            written: list[Path] = []
            for component in components:
                source = other.component(component)
                with self.replacing(component, tuple(other.index()[component])) as folder:
                    for file in source.iterdir():
                        same = (place / file.name for place in written)
                        twin = next((one for one in same if _equal(one, file)), None)
                        if twin is not None:
                            _link(twin, folder / file.name)
                        else:
                            shutil.copyfile(file, folder / file.name)
                    written.append(folder)

    def same(self, component: str, other: str) -> bool:
        """Whether two components have the same weights, byte for byte."""
        pairs = [weight_files(self.component(name), self.variant) for name in (component, other)]
        return len(pairs[0]) == len(pairs[1]) and all(
            a.samefile(b) or filecmp.cmp(a, b, shallow=False) for a, b in zip(*pairs, strict=True)
        )

    @contextmanager
    def publishing(
        self, anew: Collection[str] = (), learned_from: Mapping[str, str] | None = None
    ) -> Iterator[None]:
        """All that the block saves and removes becomes visible together when it ends without error.

        Until then, and if the process is killed, the folder is as it was. Blocks within this one
        are part of it.

        Args:
            anew: components that go unless the block saves them, and with them all notes.
            learned_from: fingerprints of components that must still be there.

        Raises:
            ValueError: the folder cannot be written; or another process has replaced what was
                learned from.
        """
        if self._draft is not None:
            yield
            return
        with self._made(), private_folder(self.path / "publishing") as private:
            self._draft = _Draft(private, anew)
            try:
                yield
                with self._alone():
                    belonging.check_unchanged(self.path, learned_from or {})
                    index = self.index()
                    note = belonging.renewed(index, self.path, private / NEW, learned_from or ())
                    index.pop(belonging.NOTE, None)
                    commit(self.path, private, index | ({belonging.NOTE: note} if note else {}))
            finally:
                self._draft = None

    @contextmanager
    def _made(self) -> Iterator[None]:
        """The folder is there while the block runs, and not after it if that fails to fill it."""
        fresh = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except BaseException:
            if fresh:
                with suppress(OSError):
                    self.path.rmdir()
            raise

    @contextmanager
    def replacing(self, component: str, entry: tuple[str, str]) -> Iterator[Path]:
        """A fresh folder that takes the component's place when the block ends without error."""
        with self.publishing():
            assert self._draft is not None
            fresh = self._draft.private / NEW / component
            shutil.rmtree(fresh, ignore_errors=True)  # written twice: the last one counts
            fresh.mkdir(parents=True)
            yield fresh
            self.update_index({component: list(entry)})

    def remove(self, component: str) -> None:
        """Take a component and its note, or a note, out of the index, and delete it."""
        with self.publishing():
            assert self._draft is not None
            self._draft.removed.add(component)
            self._draft.entries.pop(component, None)
            shutil.rmtree(self._draft.private / NEW / component, ignore_errors=True)

    def update_index(self, entries: Mapping[str, Any]) -> None:
        """Put entries into `model_index.json`, creating it where there is none."""
        with self.publishing():
            assert self._draft is not None
            self._draft.entries.update(entries)


def together(save: Callable[[S, ModelFolder], None]) -> Callable[[S, ModelFolder], None]:
    """A method that saves several components: they are published together."""

    @wraps(save)
    def saved(self: S, folder: ModelFolder) -> None:
        with folder.publishing():
            save(self, folder)

    return saved


def _link(file: Path, name: Path) -> None:
    """The file under a second name; a copy where the file system has no links."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)


def _equal(one: Path, other: Path) -> bool:
    return one.is_file() and filecmp.cmp(one, other, shallow=False)


def _stamps(component: Path, variant: str | None) -> list[tuple[str, int, int, int]]:
    """What tells files from others of the same name."""
    found = [(file.name, file.stat()) for file in weight_files(component, variant)]
    return [(name, f.st_ino, f.st_size, f.st_mtime_ns) for name, f in found]


def check_links(root: Path, *paths: Path) -> None:
    """Refuse files and folders of a model that are links to what lies outside of it.

    In the Hub's cache a model's files are links to its `blobs`, which is where they may lead.

    Raises:
        ValueError: a link that leads elsewhere, named with where it leads.
    """
    inside = [real_path(root)]
    if inside[0].parent.name == "snapshots":
        inside.append((inside[0].parents[1] / "blobs").resolve())
    for path in paths:
        end = real_path(path)
        if path.is_symlink() and not any(end.is_relative_to(place) for place in inside):
            raise ValueError(
                f"{path} is a link to '{printable(str(end))}', outside of the model's folder; "
                "put the file itself there if you trust it"
            )
