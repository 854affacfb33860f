"""Who works on a job: this process alone here, or those of a Ray cluster (`ray_crew.py`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, cast

from unclip.interfaces.batch.job import Job, state_of
from unclip.interfaces.batch.prompts import read_prompts
from unclip.interfaces.batch.worker import Worker, by_shard
from unclip.interfaces.cli.evaluations.shared import open_folder
from unclip.interfaces.cli.marking import MarkingOptions
from unclip.interfaces.cli.options import ModelOptions, computed_as
from unclip.interfaces.cli.outputs import written_by
from unclip.words import Vocabulary

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.settings import Settings

Advance = Callable[[int], Any]
"""Is told how many images are finished."""


class Looked(NamedTuple):
    """What a model is where a crew works.

    Attributes:
        state, precision: `Job.model` and `Job.precision`.
        vocabulary: of the captions that it was trained with, where its folder notes it.
    """

    state: str
    precision: str
    vocabulary: Vocabulary | None


@dataclass(frozen=True)
class Errand:
    """What a process is told that works on a job, on whichever machine.

    Args:
        named: the model as `--model` named it, for the notes of images.
        batch_size: images computed at once; None is the machine's choice.
    """

    model: ModelOptions
    named: str | None
    marking: MarkingOptions
    settings: "Settings"
    folder: Path
    batch_size: int | None

    @classmethod
    def of(cls, options: Any, settings: "Settings") -> Self:
        """That of `unclip batch`'s flags."""

        def those(kind: Any) -> Any:
            return kind(**{one.name: getattr(options, one.name) for one in fields(kind)})

        return cls(
            those(ModelOptions), options.model, those(MarkingOptions), settings, options.output,
            options.batch_size,
        )  # fmt: skip

    def open(self, precision: str | None = None) -> "Pipeline":
        """The model.

        Args:
            precision: instead of the one that the flags say.

        Raises:
            ValueError: it cannot be opened, or does not have what the settings ask for.
        """
        model = self.model
        if precision is not None:
            model = replace(model, precision=cast(Any, precision))
        pipe = model.open()
        pipe.evaluations(self.settings)
        return pipe

    def look(self, pipe: "Pipeline") -> Looked:
        """What the open model is."""
        from unclip.device.precision import name_of

        return Looked(self.state(), name_of(pipe.dtype), pipe.clip.tokenizer.vocabulary)

    def state(self) -> str:
        """`state_of` the model."""
        model = self.model
        return state_of(open_folder(model.model, (), model.revision, model.variant))

    def worker(self, pipe: "Pipeline", job: Job, advance: Advance) -> Worker:
        """Who makes shards with an open model."""
        used = self.settings.changed() | computed_as(pipe)
        notes = {**written_by(self.named, pipe), "settings": used}
        provenance = self.marking.provenance()
        return Worker(
            pipe, self.settings, job, self.folder, provenance, notes, self.batch_size, advance
        )


class Crew(Protocol):
    """Processes that make shards."""

    def look(self) -> Looked:
        """What the model is where they work.

        Raises:
            ValueError: as `Errand.open`.
        """
        ...

    def work(self, job: Job, table: Path, shards: Sequence[int], advance: Advance) -> int:
        """Write those shards, each by rename.

        Returns:
            How many other processes are at, or have done meanwhile.

        Raises:
            ValueError: the disk is full, or nobody can go on for another reason.
        """
        ...


class Alone:
    """This process."""

    def __init__(self, errand: Errand) -> None:
        self.errand = errand

    def look(self) -> Looked:
        self.pipe = self.errand.open()
        return self.errand.look(self.pipe)

    def work(self, job: Job, table: Path, shards: Sequence[int], advance: Advance) -> int:
        from unclip.device.precision import name_of

        if not shards:
            return 0
        if job.precision != name_of(self.pipe.dtype):  # that of the worker who was first
            self.pipe = self.errand.open(job.precision)
        worker = self.errand.worker(self.pipe, job, advance)
        each = by_shard(job, read_prompts(table), shards)
        return sum(not worker.write(shard, rows) for shard, rows in each)
