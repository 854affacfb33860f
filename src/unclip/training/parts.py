"""What a checkpoint is on disk: one part for each process that wrote it.

A part is a safetensors file. In its header are the run's facts, a CRC-32 of every tensor and, of
tensors that lie in several parts, where in the whole one each piece belongs. So any number of
processes can read what any other number has written. One part is `step-00000042.safetensors`,
several are a folder:

    step-00000042/part-00001-of-00002.safetensors
    step-00000042/part-00002-of-00002.safetensors

Either appears under this name once it is whole: it is written under another name and renamed
(`checkpoint_storage.py`). What is damaged or missing afterwards is found, and named.
"""

import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip.checks import shown
from unclip.files import opened_safetensors, read_safetensors, write_safetensors

Facts = Mapping[str, str]
SUFFIX = ".safetensors"
_CHECKSUMS, _PIECES = "checksums", "pieces"
_PART = re.compile(r"part-([0-9]{5})-of-([0-9]{5})\.safetensors")


@dataclass(frozen=True)
class Piece:
    """A tensor, or a part of one, in a file.

    Args:
        file: which holds it under the tensor's name.
        shape: of the piece.
        at: where in the whole tensor it begins.
        of: the whole tensor's shape.
    """

    file: Path
    shape: tuple[int, ...]
    at: tuple[int, ...]
    of: tuple[int, ...]


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds, by its headers.

    Args:
        path: of the checkpoint, to be named.
        facts: what all of its parts say beside their tensors.
        pieces: of each tensor, by its name; together they are all of it.
    """

    path: Path
    facts: dict[str, str]
    pieces: dict[str, list[Piece]]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a whole tensor."""
        return self.pieces[name][0].of


def part_name(number: int, count: int) -> str:
    """Of part `number` of `count`, from 0."""
    return f"part-{number + 1:05d}-of-{count:05d}.safetensors"


def header(
    tensors: Mapping[str, Tensor], facts: Facts, places: Mapping[str, tuple[Sequence[int], ...]]
) -> dict[str, str]:
    """What is written beside a part's tensors.

    Args:
        places: where each of the tensors that are pieces begins in its whole one, and its shape.
    """
    pieces = {name: [list(numbers) for numbers in place] for name, place in places.items()}
    said = {**facts, **({_PIECES: json.dumps(pieces, sort_keys=True)} if pieces else {})}
    return {**said, _CHECKSUMS: json.dumps(checksums(tensors, said), sort_keys=True)}


def checksums(tensors: Mapping[str, Tensor], facts: Facts) -> dict[str, int]:
    """CRC-32 of every tensor's bytes by its name; under "", that of the facts."""
    sums = {"": zlib.crc32(json.dumps(dict(facts), sort_keys=True).encode())}
    for key, tensor in tensors.items():
        begun = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        sums[key] = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, begun)
    return sums


def parts_of(path: Path) -> list[Path]:
    """The files of a checkpoint.

    Raises:
        ValueError: one of them is missing, which is named.
    """
    if not path.is_dir():
        return [path]
    there = sorted(file.name for file in path.iterdir() if _PART.fullmatch(file.name))
    if not there:
        raise ValueError(f"{path} is not whole: its parts are missing")
    match = _PART.fullmatch(there[0])
    assert match
    count = int(match[2])
    names = [part_name(number, count) for number in range(count)]
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(f"{path} is not whole: {missing[0]} is missing")
    if len(there) != count:
        raise ValueError(f"{path} holds parts of several checkpoints")
    return [path / name for name in names]


def contents(path: Path) -> Contents:
    """What the headers of a checkpoint say; its tensors are not read.

    Raises:
        ValueError: a part is missing or truncated, or they do not belong together.
    """
    facts: dict[str, str] | None = None
    pieces: dict[str, list[Piece]] = {}
    for file in parts_of(path):
        said, shapes = _headed(file)
        own = _own_facts(said)
        if facts is not None and own != facts:
            raise ValueError(f"{path} is damaged: {file.name} is of another checkpoint")
        facts, places = own, noted(said, _PIECES)
        for name, shape in shapes.items():
            pieces.setdefault(name, []).append(_piece(file, shape, places.get(name)))
    for name, found in pieces.items():
        if len({piece.of for piece in found}) > 1 or sum(
            math.prod(piece.shape) for piece in found
        ) != math.prod(found[0].of):
            raise ValueError(f"{path} is damaged: it does not hold all of its tensor {shown(name)}")
    return Contents(path, facts or {}, pieces)


def check(files: Iterable[Path]) -> None:
    """Read parts through.

    Raises:
        ValueError: what one of them holds is not what was written.
    """
    for file in files:
        said, _ = _headed(file)
        if _CHECKSUMS not in said:  # written before there were checksums
            continue
        named = noted(said, _CHECKSUMS)
        found = checksums(read_safetensors(file), _without(said, _CHECKSUMS))
        if named != found:
            bad = sorted(
                key for key in {*named, *found} if key and named.get(key) != found.get(key)
            )
            what = f"its tensor {shown(bad[0])}" if bad else "its header"
            raise ValueError(f"{file} is damaged: {what} is not what was written")


def write(target: Path, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Write a checkpoint of one part, which is there whole or not at all.

    Args:
        target: its path without the suffix that it gets.

    Raises:
        ValueError: the disk is full, or the folder cannot be written.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(target.with_suffix(SUFFIX), whole, header(whole, facts, {}))


def fill(found: Contents, into: Mapping[str, Tensor]) -> None:
    """Read a checkpoint's tensors into whole ones of these names, in place.

    Raises:
        ValueError: a part cannot be read.
    """
    wanted: dict[Path, list[tuple[str, Piece]]] = {}
    for name in into:
        for piece in found.pieces[name]:
            wanted.setdefault(piece.file, []).append((name, piece))
    for file, pieces in wanted.items():
        with opened_safetensors(file) as opened:
            for name, piece in pieces:
                region = zip(piece.at, piece.shape, strict=True)
                place = tuple(slice(begin, begin + many) for begin, many in region)
                into[name][place].copy_(opened.get_tensor(name))


def noted(facts: Facts, key: str) -> dict[str, Any]:
    """An object that a header holds as JSON; an empty one where it holds none."""
    try:
        value = json.loads(facts.get(key, ""))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _headed(file: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """A file's header: what it says beside its tensors, and their shapes."""
    with opened_safetensors(file) as opened:
        said = dict(opened.metadata() or {})
        shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    return _without(said, "format"), shapes  # safetensors' own


def _own_facts(said: Facts) -> dict[str, str]:
    return _without(said, _CHECKSUMS, _PIECES)


def _without(said: Facts, *keys: str) -> dict[str, str]:
    return {key: value for key, value in said.items() if key not in keys}


def _piece(file: Path, shape: tuple[int, ...], place: Any) -> Piece:
    """A tensor of a file, whole or, if the header says so, a part of another.

    Raises:
        ValueError: it says something else there.
    """
    if place is None:
        return Piece(file, shape, (0,) * len(shape), shape)
    try:
        at, of = (tuple(int(number) for number in numbers) for numbers in place)
    except (TypeError, ValueError, OverflowError):
        at = of = ()
    if not len(at) == len(of) == len(shape) or any(
        not 0 <= begin <= begin + size <= whole
        for begin, size, whole in zip(at, shape, of, strict=True)
    ):
        raise ValueError(f"{file} is damaged: its header does not say where its tensors belong")
    return Piece(file, shape, at, of)
