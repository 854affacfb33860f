"""A folder of precomputed embeddings, as `unclip embed SOURCE -o DIR` writes it.

    embeddings.json          what they are of, by which CLIP, and in how many shards
    pictures-0.safetensors   names, captions and sizes of the images of the first source, which a
                             mixture has several of
    00000.safetensors        z_i, z_t and perhaps hidden states of the first images, in their order

A shard is written under another name and renamed, and says whose it is and the sum of its bytes.
Shards are mapped from the disk: a row is read when it is asked for.

Shapes: n images, m captions and t tokens of a shard, D embedding width.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unclip.checks import flag, many, printable
from unclip.data.columns import Builder, Columns
from unclip.data.pictures import PictureSource
from unclip.files import opened_safetensors, read_json, whole, write_json, write_safetensors

INDEX = "embeddings.json"
_FORMAT = "unclip-embeddings-1"
_SUMMED = 2**32  # bytes of all shards up to which opening reads them through, a second or two
_MOST = 10**7  # shards
HIDDEN = ("", "fp32", "bf16")  # what hidden states are kept in; not at all


@dataclass(frozen=True)
class Part:
    """The images of one source.

    Args:
        where: what a sentence calls it.
        digest: of its names, captions, sizes and files (`Pictures.digest`).
        images, captions: how many were embedded.
    """

    where: str
    digest: str
    images: int
    captions: int


@dataclass(frozen=True)
class Plan:
    """What a folder of embeddings holds, decided before the first is computed.

    Args:
        source: its name as it was given.
        size: side of the square images that CLIP was shown, pixels.
        clip: component → fingerprint of its weights.
        width: D.
        hidden: what the hidden states of captions are kept in, one of `HIDDEN`.
        precision: what the towers computed in.
        per_shard: images of a shard; the last has fewer.
        parts: the sources.
        weights: of the sources, where they are parts of a mixture.
    """

    source: str
    size: int
    clip: Mapping[str, str]
    width: int
    hidden: str
    precision: str
    per_shard: int
    parts: tuple[Part, ...]
    weights: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        return sum(part.images for part in self.parts)

    @property
    def captions(self) -> int:
        return sum(part.captions for part in self.parts)

    @property
    def shards(self) -> int:
        return -(-self.images // self.per_shard)

    def rows(self, shard: int) -> range:
        """The images of a shard, counted through all parts."""
        first = shard * self.per_shard
        return range(first, min(first + self.per_shard, self.images))

    def print(self) -> str:
        """A fingerprint of all of it but names."""
        facts = asdict(self) | {"source": "", "parts": [(p.digest, p.images) for p in self.parts]}
        text = json.dumps(facts, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def write(self, folder: Path) -> None:
        """Into `embeddings.json`."""
        write_json(folder / INDEX, {"unclip": _FORMAT, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From `embeddings.json`.

        Raises:
            ValueError: there is none, or it is none that `write` wrote.
        """
        where = folder / INDEX
        if not where.is_file():
            raise ValueError(
                f"{printable(str(folder))} holds no embeddings ({INDEX} is missing); "
                "`unclip embed SOURCE -o DIR` writes them"
            )
        said = read_json(where)
        try:
            if said.pop("unclip") != _FORMAT:
                raise ValueError
            parts = tuple(Part(**part) for part in said.pop("parts"))
            weights = tuple(said.pop("weights"))
            plan = cls(parts=parts, weights=weights, **said)
            plan._check()
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(
                f"{printable(str(where))} is not what `unclip embed` writes; embed anew"
            ) from None
        return plan

    def _check(self) -> None:
        """ValueError or TypeError for what no `write` wrote."""
        numbers = [self.size, self.width, self.per_shard]
        numbers += [n for part in self.parts for n in (part.images, part.captions)]
        texts = [self.source, self.precision, *self.weights, *self.clip, *self.clip.values()]
        texts += [text for part in self.parts for text in (part.where, part.digest)]
        if not (all(type(n) is int and 0 < n < 2**48 for n in numbers) and self.parts):
            raise ValueError
        if not all(isinstance(text, str) for text in texts) or self.hidden not in HIDDEN:
            raise TypeError
        if self.weights and len(self.weights) != len(self.parts):
            raise ValueError
        if not all(Fraction(weight) > 0 for weight in self.weights) or self.shards > _MOST:
            raise ValueError


def shard_file(folder: Path, shard: int) -> Path:
    """Where a shard is."""
    return folder / f"{shard:05d}.safetensors"


def _part_file(folder: Path, part: int) -> Path:
    return folder / f"pictures-{part}.safetensors"


def write_part(folder: Path, number: int, pictures: PictureSource) -> None:
    """The images that a source uses, so that training can do without the source."""
    builder, there = Builder(), pictures.pictures
    sides = there.sides()
    for one in map(int, pictures.numbers):
        size = int(sides[one, 0]), int(sides[one, 1])
        builder.add(there.name(one), there.captions(one), size, (0, 0))
    arrays = {**builder.columns().arrays(), "numbers": pictures.numbers.astype(np.int64)}
    tensors = {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in arrays.items()}
    write_safetensors(_part_file(folder, number), tensors)


def write_shard(folder: Path, plan: Plan, shard: int, tensors: Mapping[str, Tensor]) -> None:
    """A shard, whole or not at all, and the same bytes each time: the library has no fixed order of
    several facts."""
    from safetensors.torch import save_file

    facts = {"plan": plan.print(), "shard": shard, "sum": _sum(tensors)}
    with whole(shard_file(folder, shard)) as partial:
        stored = {key: tensor.contiguous() for key, tensor in tensors.items()}
        save_file(stored, partial, {_FORMAT: json.dumps(facts)})


def _sum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of all bytes."""
    found = 0
    for key in sorted(tensors):
        found = zlib.crc32(key.encode(), found)
        found = zlib.crc32(tensors[key].reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def open_shard(folder: Path, plan: Plan, shard: int, summed: bool) -> dict[str, Tensor]:
    """The tensors of a shard, mapped from its file.

    Args:
        summed: whether all of its bytes are read and compared with what was written.

    Raises:
        ValueError: it is missing, of other embeddings, or damaged.
    """
    file = shard_file(folder, shard)
    where = printable(str(file))
    again = "`unclip embed` with the same words makes it again"
    if not file.exists():
        raise ValueError(f"the shard {where} is missing; {again}")
    try:
        with opened_safetensors(file) as opened:
            facts = _facts(opened.metadata() or {})
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        _check_shard(tensors, plan, len(plan.rows(shard)))
        if summed and facts.get("sum") != _sum(tensors):
            raise ValueError("its bytes are not those that were written")
    except ValueError as error:
        said = str(error).removeprefix(f"{file} is ")
        raise ValueError(f"the shard {where} is damaged ({said}); {again}") from None
    if (facts.get("plan"), facts.get("shard")) != (plan.print(), shard):
        raise ValueError(f"the shard {where} is of other embeddings; {again}")
    return tensors


def _facts(header: Mapping[str, str]) -> dict[str, Any]:
    """What a shard says of itself; nothing where it says nothing."""
    try:
        said = json.loads(header.get(_FORMAT, ""))
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _check_shard(tensors: Mapping[str, Tensor], plan: Plan, images: int) -> None:
    """Refuse tensors of other shapes or types than a shard of so many images has."""
    floats = torch.bfloat16 if plan.hidden == "bf16" else torch.float32
    try:
        last, z_t = tensors["last"], tensors["z_t"]
        captions = len(z_t)
        wanted = {
            "z_i": ((images, plan.width), torch.float32),
            "readable": ((images,), torch.uint8),
            "last": ((images,), torch.int64),
            "z_t": ((captions, plan.width), torch.float32),
        }
        ends = [(last, captions)]
        if plan.hidden:
            tokens = len(tensors["ids"])
            wanted |= {
                "hidden": ((tokens, plan.width), floats),
                "ids": ((tokens,), torch.int32),
                "token_ends": ((captions,), torch.int64),
            }
            ends.append((tensors["token_ends"], tokens))
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks {error}") from None
    for key, (shape, kind) in wanted.items():
        if tuple(tensors[key].shape) != shape or tensors[key].dtype != kind:
            raise ValueError(f"{key} is {tensors[key].dtype} of the shape {[*tensors[key].shape]}")
    for cut, total in ends:
        if int(cut[0]) < 0 or int(cut[-1]) != total or bool((cut.diff() < 0).any()):
            raise ValueError("its rows do not fit together")


@dataclass
class Embeddings:
    """Embeddings of a folder, row by row.

    Args:
        folder: where they are.
        plan: what they are of.
        columns: of each part, the images: row by row.
        numbers: of each part, (images,) int64, ascending: their numbers in the source.
    """

    folder: Path
    plan: Plan
    columns: tuple[Columns, ...]
    numbers: tuple[npt.NDArray[np.int64], ...]
    _opened: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """What `unclip embed` wrote.

        Raises:
            ValueError: it is not all there, or damaged. Of more than 4 GiB only sizes and headers
                are looked at; `unclip embed` with the same words reads all.
        """
        plan = Plan.read(folder)
        there = [_read_part(folder, plan, number) for number in range(len(plan.parts))]
        made = cls(folder, plan, *(tuple(one) for one in zip(*there, strict=True)))  # type: ignore[arg-type]
        files = [shard_file(folder, shard) for shard in range(plan.shards)]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise ValueError(
                f"{len(missing):,} of {many(plan.shards, 'shards')} are missing in "
                f"{printable(str(folder))}, {missing[0].name} the first; `unclip embed` with the "
                "same words makes them"
            )
        summed = sum(file.stat().st_size for file in files) <= _SUMMED
        for shard in range(plan.shards):
            open_shard(folder, plan, shard, summed)
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    @property
    def has_hidden(self) -> bool:
        """Whether the hidden states of captions are among them."""
        return bool(self.plan.hidden)

    def first(self, part: int) -> int:
        """The row of a part's first image."""
        return sum(one.images for one in self.plan.parts[:part])

    def is_readable(self, row: int) -> bool:
        """Whether the image could be decoded."""
        shard, place = divmod(row, self.plan.per_shard)
        return bool(self._shard(shard)["readable"][place])

    def row(self, row: int, caption: int) -> dict[str, Tensor]:
        """An image's "z_i" (D,) fp32 and, where hidden states are there, the caption's "z_t" (D,),
        "hidden" (l, D), "ids" (l,), and l as "tokens" ().

        Args:
            caption: which of the image's captions.
        """
        shard, place = divmod(row, self.plan.per_shard)
        tensors = self._shard(shard)
        found = {"z_i": tensors["z_i"][place].clone()}
        if self.has_hidden:
            number = caption + (int(tensors["last"][place - 1]) if place else 0)
            ends = tensors["token_ends"]
            tokens = slice(int(ends[number - 1]) if number else 0, int(ends[number]))
            found["z_t"] = tensors["z_t"][number].clone()
            found["hidden"] = tensors["hidden"][tokens].to(torch.float32, copy=True)
            found["ids"] = tensors["ids"][tokens].long()
            found["tokens"] = torch.tensor(len(found["ids"]))
        return found

    def _shard(self, shard: int) -> dict[str, Tensor]:
        if shard not in self._opened:
            self._opened[shard] = open_shard(self.folder, self.plan, shard, summed=False)
        return self._opened[shard]

    def check_clip(self, prints: Mapping[str, str], model: Path) -> None:
        """Refuse to be used with another CLIP.

        Args:
            prints: component → fingerprint of its weights, of the model at `model`.
        """
        if {name: prints.get(name, "") for name in self.plan.clip} != dict(self.plan.clip):
            raise ValueError(
                f"{printable(str(self.folder))} holds embeddings of another CLIP than that of "
                f"{printable(str(model))}; embed anew with {flag('--model', model)}"
            )


def _read_part(folder: Path, plan: Plan, number: int) -> tuple[Columns, npt.NDArray[np.int64]]:
    """The images of a part, and their numbers in their source.

    Raises:
        ValueError: its file is missing or damaged.
    """
    file, part = _part_file(folder, number), plan.parts[number]
    try:
        with opened_safetensors(file) as opened:
            arrays = {key: opened.get_tensor(key).numpy() for key in opened.keys()}  # noqa: SIM118
        columns, numbers = Columns.of_arrays(arrays), arrays["numbers"]
        fits = (len(columns), len(columns.texts)) == (part.images, part.captions)
        if not (fits and numbers.dtype == np.int64 and numbers.shape == (part.images,)):
            raise ValueError("it is of another number of images")
        if (columns.counts() < 1).any() or (np.diff(numbers) < 1).any():
            raise ValueError("its columns do not fit together")
    except (KeyError, TypeError, ValueError) as error:
        said = str(error).removeprefix(f"{file} is ")
        raise ValueError(f"{printable(str(file))} is missing or damaged ({said})") from None
    return columns, numbers


def parts_of(sources: Sequence[PictureSource]) -> tuple[Part, ...]:
    """What a plan says of sources: of the images that they use."""
    return tuple(
        Part(
            one.pictures.where,
            one.pictures.digest(),
            len(one.numbers),
            int(one.pictures.counts()[one.numbers].sum()),
        )
        for one in sources
    )
