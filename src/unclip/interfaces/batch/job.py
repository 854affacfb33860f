"""A folder of shards that workers fill together: what it is of, and what of it is there.

`job.json` says what is asked for, so that nobody adds to another job. A shard is
`shard-000012.tar`, with `00001234.png` (its notes in it), `.txt` (the caption) and `.json` (the
notes) for each image, as `--data wds:FOLDER` reads them. It is written under another name and
renamed, and its bytes follow from the job alone. `failed/shard-000012.jsonl` lists the rows that
came to nothing: a shard without such a list is whole.
"""

import errno
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.checks import printable
from unclip.files import shared_folder, whole, write_json, write_text
from unclip.interfaces.batch.prompts import Row

if TYPE_CHECKING:
    from unclip.storage.folder import ModelFolder

JOB = "job.json"
_FAILED = "failed"
_FORMAT = 2
_TAR_END = 1024  # bytes, zeros
_DIFFERENCES = {
    "format": "that another version of unclip wrote",
    "prompts": "of other prompts",
    "count": "with another number of images for each prompt",
    "seed": "with another seed",
    "per_shard": "in shards of another size",
    "model": "of another model, or of a state of it before it was trained on or tuned",
    "settings": "with other settings",
    "precision": "computed in another precision",
    "engine": "computed by another engine",
    "provenance": "otherwise marked or signed",
}


@dataclass(frozen=True)
class Job:
    """All that decides what images a job has."""

    prompts: str
    """Hash of the table's bytes."""
    rows: int
    """Prompts in it."""
    count: int
    """Images for each."""
    seed: int
    """Of the first image of the first row; the others count on, where the table says none."""
    per_shard: int
    """Prompts of a shard."""
    model: str = ""
    """What `state_of` says of the model."""
    precision: str = ""
    provenance: str = ""
    engine: str = "torch"
    settings: Mapping[str, Any] = field(default_factory=dict)
    format: int = _FORMAT

    @property
    def shards(self) -> int:
        """How many the job has."""
        return -(-self.rows // self.per_shard)

    def seed_of(self, row: Row) -> int:
        """The seed of a row's first image."""
        return self.seed + row.number * self.count if row.seed is None else row.seed

    def rows_of(self, shard: int) -> range:
        """The numbers of a shard's rows."""
        return range(shard * self.per_shard, min((shard + 1) * self.per_shard, self.rows))


@dataclass(frozen=True)
class Sample:
    """One finished image."""

    row: int
    image: int
    """Of the images of its row, from 0 on."""
    png: bytes
    caption: str
    notes: Mapping[str, Any]

    def members(self, count: int) -> Iterable[tuple[str, bytes]]:
        """Its files in the shard."""
        name = f"{self.row:08}" + (f"-{self.image}" if count > 1 else "")
        yield f"{name}.png", self.png
        yield f"{name}.txt", (self.caption + "\n").encode("utf-8", "backslashreplace")
        notes = json.dumps(self.notes, ensure_ascii=False, sort_keys=True)
        yield f"{name}.json", notes.encode("utf-8", "backslashreplace")


def state_of(model: "ModelFolder") -> str:
    """A hash of all of a model folder that its images follow from: every component's weights, their
    precision and settings, and what the index says of how the model is sampled."""
    from unclip.evaluation.generated import fingerprint
    from unclip.pipeline.loading import CLASSES, NOTES
    from unclip.storage import belonging
    from unclip.storage.weights import weight_files

    silent = (*NOTES, belonging.NOTE)  # where weights come from changes no image
    index = {name: said for name, said in model.index().items() if name not in silent}
    digest = hashlib.sha256(json.dumps([fingerprint(model), index], sort_keys=True).encode())
    for name in sorted(name for name in CLASSES if model.has(name)):
        if any(model.component(name).glob("*.safetensors")):
            for file in weight_files(model.component(name), model.variant):
                digest.update(f"{name} {file.stat().st_size}".encode())
    return digest.hexdigest()[:16]


def shard_file(folder: Path, shard: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard-{shard:06}.tar"


def failed_file(folder: Path, shard: int) -> Path:
    """Where the rows of a shard are listed that came to nothing."""
    return folder / _FAILED / f"shard-{shard:06}.jsonl"


def claim(folder: Path, job: Job, measured: bool) -> Job:
    """Make the folder that of this job, by the first of several workers, or find that it is.

    Args:
        measured: whether the precision was chosen by a measurement; then that of a folder that was
            begun counts.

    Returns:
        The job that the folder has.

    Raises:
        ValueError: it holds another job, or something else.
    """
    where = printable(str(folder))
    with shared_folder(folder):
        if not (folder / JOB).exists():
            if any(not one.name.startswith(".") for one in folder.iterdir()):
                raise ValueError(f"{where} has something else in it; give a job its own folder")
            write_json(folder / JOB, asdict(job))
            return job
    there = _read(folder)
    if measured:
        job = replace(job, precision=there["precision"])
    wanted = json.loads(json.dumps(asdict(job)))
    if wanted != there:
        differs = [said for key, said in _DIFFERENCES.items() if wanted[key] != there.get(key)]
        raise ValueError(
            f"{where} holds a job {(differs or ['of something else'])[0]}; give another folder, or "
            "remove that one"
        )
    return job


def check_same(folder: Path, job: Job) -> None:
    """Refuse, on another machine, a folder that is not the job's.

    Raises:
        ValueError: it is another one, that is, not shared.
    """
    if not (folder / JOB).is_file() or _read(folder) != json.loads(json.dumps(asdict(job))):
        raise ValueError(
            f"{printable(str(folder))} is not the job's folder here: all machines must share it"
        )


def _read(folder: Path) -> dict[str, Any]:
    try:
        there = json.loads((folder / JOB).read_text("utf-8"))
        if not isinstance(there["precision"], str):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{printable(str(folder))}/{JOB} is damaged; give a job another folder"
        ) from None
    return dict(there)


@contextmanager
def held(folder: Path, shard: int) -> Iterator[bool]:
    """Hold a shard against other processes while the block runs; False where one of them has it.

    It is byte number `shard` of `job.json` that is locked: no further file, and network disks tell
    other machines of it. The kernel lets go of it when the process dies, but also when it closes
    `job.json` elsewhere, which therefore nobody reads meanwhile. Where there are no such locks
    nothing is held, and two processes write the same bytes.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    try:
        file = (folder / JOB).open("r+b")
    except OSError:
        yield True  # where it cannot be written, a sentence will say so
        return
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, shard)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                yield False
                return
        yield True


def is_whole(folder: Path, shard: int) -> bool:
    """Whether nothing is to be done for a shard: it is there to its end, and lacks nothing."""
    file = shard_file(folder, shard)
    return _ends(file) and not failed_file(folder, shard).is_file()


def _ends(file: Path) -> bool:
    """Whether a tar has its end, two empty blocks; one that was cut off has not."""
    try:
        with file.open("rb") as opened:
            opened.seek(-_TAR_END, io.SEEK_END)
            return not any(opened.read(_TAR_END))
    except OSError:
        return False


def failures(job: Job, folder: Path) -> list[str]:
    """Of each of a job's rows that came to nothing, why it did."""
    found: list[str] = []
    for file in (failed_file(folder, shard) for shard in range(job.shards)):
        if file.is_file():
            try:
                found += [str(json.loads(line)["why"]) for line in file.read_text().splitlines()]
            except (OSError, ValueError, KeyError, TypeError):
                found.append(f"{file.name} is damaged")
    return found


def read_shard(folder: Path, shard: int) -> list[Sample]:
    """The images that a shard has; none if it is not there, or damaged."""
    found: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(shard_file(folder, shard), "r:") as archive:
            for member in archive:
                stem, _, kind = member.name.rpartition(".")
                file = archive.extractfile(member)
                found.setdefault(stem, {})[kind] = file.read() if file else b""
        return [_sample(stem, files) for stem, files in found.items()]
    except (OSError, tarfile.TarError, KeyError, ValueError):
        return []


def _sample(stem: str, files: Mapping[str, bytes]) -> Sample:
    row, _, image = stem.partition("-")
    caption = files["txt"].decode().removesuffix("\n")
    return Sample(int(row), int(image or 0), files["png"], caption, json.loads(files["json"]))


def write_shard(
    folder: Path,
    shard: int,
    job: Job,
    samples: Sequence[Sample],
    failed: Sequence[Mapping[str, Any]],
) -> None:
    """Put a shard in its place, with the list of the rows that came to nothing.

    Whenever it is killed, a shard that lacks rows has such a list, or is not there.

    Args:
        failed: for each of them `row`, `prompt` and `why`.

    Raises:
        ValueError: the disk is full, or the folder cannot be written.
    """
    file, listed = shard_file(folder, shard), failed_file(folder, shard)
    if failed and not listed.exists():
        _list(listed, failed)
    if samples:
        with whole(file) as partial, tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
            for sample in sorted(samples, key=lambda one: (one.row, one.image)):
                for name, data in sample.members(job.count):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    if failed:
        _list(listed, failed)
    else:
        listed.unlink(missing_ok=True)


def _list(file: Path, failed: Sequence[Mapping[str, Any]]) -> None:
    try:
        file.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {file.parent}: {error.strerror}") from None
    lines = (json.dumps(one, ensure_ascii=True) + "\n" for one in failed)
    write_text(file, "".join(lines))
