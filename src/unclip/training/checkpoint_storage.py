"""Parts of a checkpoint (`parts.py`) as storage of torch.distributed.checkpoint (DCP).

DCP plans which process writes and reads what: of a tensor that all of them have whole, one writes
it, so that the work is shared; of one that is spread over them, each writes its own piece, and
nobody gathers it. Its own formats keep their plan in a pickle, or nowhere; here a part says itself
what it holds. One process alone has nothing to plan (`parts.py`), and does not wait half a second
for this to be imported.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Size, Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter
from torch.futures import Future

from unclip.files import opened_safetensors, private_folder, put_down
from unclip.training.parts import Contents, Facts, header, part_name

BEFORE = ".before"
"""What the name of a folder of parts ends with while one of the same step takes its place."""


def write(target: Path, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Write a checkpoint: each process what it has of `tensors`. Collective.

    Raises:
        ValueError: it cannot be written. Nothing is left of it.
    """
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with Writer(target, facts) as writer, _sentences():
        save(dict(tensors), storage_writer=writer, planner=planner)


def read(found: Contents, into: Mapping[str, Tensor]) -> None:
    """Read all of `into`, or this process's parts of it, in place. Collective.

    Raises:
        ValueError: it cannot be read.
    """
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with _sentences():
        load(dict(into), storage_reader=Reader(found), planner=planner)


class Writer(StorageWriter):
    """Writes parts into a private folder of the main process, which renames it when all are whole.

    The main process has made the folder when its `prepare_global_plan` tells the others of it.
    """

    def __init__(self, target: Path, facts: Facts) -> None:
        self.target, self.facts = target, facts
        self._held = ExitStack()
        self._folder = Path()  # of the parts; known to the main process, others get it by plan

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if is_coordinator:
            self.target.parent.mkdir(parents=True, exist_ok=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        private = self._held.enter_context(private_folder(self.target))
        self._folder = private / self.target.name
        self._folder.mkdir()
        return [
            replace(plan, storage_data=str(self._folder / part_name(number, len(plans))))
            for number, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> "Future[list[Any]]":
        tensors: dict[str, Tensor] = {}
        places: dict[str, tuple[Size, Size]] = {}
        for item in plan.items:
            data, name = item.tensor_data, item.index.fqn
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor)
            assert data is not None, name
            assert name not in tensors, name
            if not tensor.numel() and data.size.numel():
                continue  # of a tensor with few rows this process has none
            tensors[name] = tensor.detach().cpu().contiguous()
            if data.chunk.sizes != data.size:
                places[name] = (data.chunk.offsets, data.size)
        self._write(Path(plan.storage_data), tensors, header(tensors, self.facts, places))
        return _done([])

    def _write(self, part: Path, tensors: dict[str, Tensor], said: dict[str, str]) -> None:
        from safetensors.torch import save_file

        if not part.parent.is_dir():
            raise ValueError(
                f"cannot write {self.target}: not every process sees this folder; a run's must be "
                "on a disk that all machines share"
            )
        with put_down(part, self.target):
            save_file(tensors, part, {"format": "pt", **said})

    def finish(self, metadata: Metadata, results: list[list[Any]]) -> None:
        try:
            if self.target.is_dir():  # of the same step, and whole until the new one is there
                self.target.rename(self.target.with_suffix(BEFORE))
            self._folder.rename(self.target)
        except OSError as error:
            raise ValueError(f"cannot write {self.target}: {error.strerror}") from None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


class Reader(StorageReader):
    """Reads a checkpoint's pieces, each from where its part's header says."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return Metadata(
            {
                name: TensorStorageMetadata(
                    TensorProperties(),  # tensors are read into others, which have a type
                    Size(pieces[0].of),
                    [ChunkStorageMetadata(Size(piece.at), Size(piece.shape)) for piece in pieces],
                )
                for name, pieces in self.contents.pieces.items()
            }
        )

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        pass

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> "Future[None]":
        wanted: dict[Path, list[ReadItem]] = {}
        for item in plan.items:
            wanted.setdefault(self._file(item.storage_index), []).append(item)
        for file, items in wanted.items():
            with opened_safetensors(file) as opened:
                for item in items:
                    region = zip(item.storage_offsets, item.lengths, strict=True)
                    read = opened.get_slice(item.storage_index.fqn)
                    found = read[tuple(slice(begin, begin + many) for begin, many in region)]
                    into = planner.resolve_tensor(item).detach()
                    into.copy_(found)
                    planner.commit_tensor(item, into)
        return _done(None)

    def _file(self, index: MetadataIndex) -> Path:
        at = tuple(index.offset or ())
        return next(piece.file for piece in self.contents.pieces[index.fqn] if piece.at == at)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


def _done(value: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(value)
    return future


@contextmanager
def _sentences() -> Iterator[None]:
    """What went wrong in any of the processes, as it was raised there."""
    try:
        yield
    except CheckpointException as error:
        raise error.failures[min(error.failures)][0] from None
