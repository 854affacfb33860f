"""The index of a shard: the captioned images in one large file, with where their bytes lie.

A tar can only be read forward, and Parquet in large pieces. With an index, made once, any sample is
a seek, so that which samples make up a step stays a function of the step alone. The index of
`shards/000.tar` is `shards/.unclip-index/000.tar.safetensors`; where that cannot be written, it is
in the user's cache. Images that the file holds compressed are unpacked beside the index.
"""

import hashlib
import json
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

import torch

from unclip.checks import Notice, printable
from unclip.data.columns import Columns
from unclip.files import locked, opened_safetensors, sweep, write_safetensors
from unclip.lazy import imported

EDITION = "1"  # of what is in an index; another one is made anew
FOLDER = ".unclip-index"
_IMAGES = ".images"  # what a file of unpacked images ends with

_BUILDERS = {  # how a file ends → what reads it through
    ".tar": "unclip.data.tar_shard:build",
    ".arrow": "unclip.data.arrow:build",
    ".parquet": "unclip.data.arrow:build",
}


@dataclass(frozen=True)
class Index:
    """What is known of a shard.

    Args:
        columns: its captioned images, `names` as in the archive.
        images: how many there are, without captions too.
        size, changed: of the shard when it was read: bytes, and ns since 1970.
        problems, notes: kind → names, as in `captions.Report`.
        unpacked: the file that the offsets are in, where it is not the shard.
        classes: whether the texts are names of classes rather than captions.
    """

    columns: Columns
    images: int
    size: int
    changed: int
    problems: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    unpacked: Path | None = None
    classes: bool = False


def places(shard: Path) -> tuple[Path, Path]:
    """Where a shard's index may be: beside it, and in the user's cache."""
    whole = os.path.abspath(shard.parent)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = hashlib.blake2b(os.fsencode(whole), digest_size=12).hexdigest()
    name = f"{shard.name}.safetensors"
    return shard.parent / FOLDER / name, cache / "unclip" / "index" / folder / name


def load(shard: Path) -> Index | None:
    """The shard's index, mapped from its file; None where there is none that can be used.

    Raises:
        ValueError: the shard is not there, or was changed since it was indexed.
    """
    size, changed = state(shard)
    for place in places(shard):
        index = _read(place) if place.is_file() else None
        if index is None:
            continue
        if index.size != size:
            raise ValueError(
                f"{printable(str(shard))} was changed since it was indexed: it had {index.size:,} "
                f"bytes and has {size:,}; put it back, or take it as it is with `unclip data index`"
            )
        if index.changed == changed:
            return index
    return None  # of the same size but newer: a copy, or something else


def made(shard: Path) -> Index:
    """The shard's index, made if need be, by one process while others wait.

    Raises:
        ValueError: see `load` and `build`.
    """
    index = load(shard)
    if index is None:
        with suppress(OSError), locked(shard):
            index = load(shard) or _written(shard)
    return index or load(shard) or _written(shard)


def renew(shard: Path) -> Index:
    """A new index of the shard as it is."""
    return _written(shard)


def forget_gone(folder: Path) -> None:
    """Remove the indices of shards that are no longer in the folder."""
    for gone in missing(folder):
        for place in places(gone):
            place.unlink(missing_ok=True)


def missing(folder: Path) -> list[Path]:
    """Shards of a folder that are indexed but gone."""
    names: set[str] = set()
    for place in places(folder / "x"):
        with suppress(OSError):
            names |= {one.removesuffix(".safetensors") for one in os.listdir(place.parent)
                      if one.endswith(".safetensors") and not one.startswith(".")}  # fmt: skip
    return [folder / name for name in sorted(names) if not (folder / name).exists()]


def state(shard: Path) -> tuple[int, int]:
    """Size in bytes, and when it was changed, ns since 1970.

    Raises:
        ValueError: it is not there, or no regular file.
    """
    try:
        state = shard.stat()
    except OSError as error:
        raise ValueError(f"the shard {printable(str(shard))} {why(error)}") from None
    if not stat.S_ISREG(state.st_mode):  # a pipe would keep whoever opens it
        raise ValueError(f"the shard {printable(str(shard))} is no regular file")
    return state.st_size, state.st_mtime_ns


def why(error: OSError) -> str:
    """The rest of a sentence on what cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return f"cannot be read: {error.strerror}"


def _read(place: Path) -> Index | None:
    """An index from its file; None if it is another edition's or damaged, or lacks its images."""
    try:
        with opened_safetensors(place) as opened:
            facts = opened.metadata() or {}
            if facts.get("edition") != EDITION:
                return None
            arrays = {key: opened.get_tensor(key).numpy() for key in opened.keys()}  # noqa: SIM118
        columns = Columns.of_arrays(arrays)
        unpacked = place.with_suffix(_IMAGES) if "unpacked" in facts else None
        if unpacked and str(unpacked.stat().st_size) != facts["unpacked"]:
            return None
        kinds = json.loads(facts["problems"]), json.loads(facts["notes"])
        images, size, changed = (int(facts[key]) for key in ("images", "size", "changed"))
        return Index(columns, images, size, changed, *kinds, unpacked, "classes" in facts)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _written(shard: Path) -> Index:
    """Made now, and kept where it can be.

    Raises:
        ValueError: see the builders; or there is no place for images that must be unpacked.
    """
    build = imported(_BUILDERS[shard.suffix.lower()])
    for place in places(shard):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=place.parent):
                pass
        except OSError:
            continue
        sweep(place.parent)
        images = place.with_suffix(_IMAGES)
        index: Index = build(shard, images)
        if index.unpacked is None:
            images.unlink(missing_ok=True)
        write_safetensors(place, _tensors(index), _facts(index))
        return _read(place) or index
    index = build(shard, None)
    return index


def _tensors(index: Index) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(array) for key, array in index.columns.arrays().items()}


def _facts(index: Index) -> dict[str, str]:
    facts = {
        "edition": EDITION,
        "images": str(index.images),
        "size": str(index.size),
        "changed": str(index.changed),
        "problems": json.dumps(index.problems),
        "notes": json.dumps(index.notes),
    }
    if index.unpacked:
        facts["unpacked"] = str(index.unpacked.stat().st_size)
    if index.classes:
        facts["classes"] = "yes"
    return facts


def all_of(shards: Sequence[Path]) -> Iterator[Index]:
    """The indices of several shards, in their order; those that are missing are made, and several
    processes that ask for the same share the work."""
    start = os.getpid() * 7919 % max(1, len(shards))  # each begins elsewhere
    for shard in (*shards[start:], *shards[:start]):
        if load(shard) is None:
            with suppress(OSError, BlockingIOError), locked(shard, wait=False):
                if load(shard) is None:
                    _written(shard)
    return map(made, shards)


def announce(shards: int) -> None:
    """Say that some time is needed, where many shards have no index."""
    warnings.warn(
        Notice(f"{shards:,} shards are indexed, once; `unclip data index` does it on all cores"),
        stacklevel=2,
    )
