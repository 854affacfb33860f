"""Tar shards of captioned images, as img2dataset and webdataset write them: "wds:PLACE".

PLACE is a shard, several with braces ("shards/{000..099}.tar"), or a folder of them. A shard has
`cat.jpg` and `cat.txt` or `cat.json` as members; see `shard_index` for how they are found.
"""

import hashlib
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from unclip.checks import printable
from unclip.data import shard_index
from unclip.data.braces import expand
from unclip.data.captions import Report, of_class
from unclip.data.pictures import PictureSource
from unclip.data.registry import Request
from unclip.files import open_regular

_OPEN = 64  # shards that are kept open
_MANY = 10  # shards whose indexing takes a while
_SHARD = ".tar"
EXPECTED = "members such as 0001.jpg and 0001.txt"


def open_format(request: Request) -> PictureSource:
    """See `registry.open_source`. Shards that have no index get one."""
    shards = find_shards(request.place)
    pictures = Shards(f"wds:{request.place}", shards)
    return PictureSource.of(request, pictures, pictures.report(), EXPECTED)


def find_shards(place: str) -> list[Path]:
    """The shards that a place names, in order.

    Raises:
        ValueError: there is none; one is named but not there, or was there when it was indexed;
            the braces are wrong.
    """
    if not place:
        raise ValueError("wds: names no shards; give such as wds:shards/{000..099}.tar")
    if "://" in place or place.startswith("pipe:"):
        raise ValueError(f"{place!r} is an address; download the shards and give their paths")
    folder = Path(place)
    if folder.is_dir():
        return _in_folder(folder)
    shards = [Path(name) for name in expand(place)]
    lost = [shard for shard in shards if not shard.exists()]
    if lost:
        which = f"{len(lost):,} of {len(shards):,} shards do" if len(lost) > 1 else "the shard does"
        more = ", ..." if len(lost) > 3 else ""
        names = ", ".join(printable(str(shard)) for shard in lost[:3])
        raise ValueError(f"{which} not exist: {names}{more}")
    if len(set(shards)) < len(shards):
        raise ValueError(f"wds:{place} names a shard twice")
    return shards


def _in_folder(folder: Path) -> list[Path]:
    where = printable(str(folder))
    gone = shard_index.missing(folder)
    if gone:
        raise ValueError(
            f"the shard {printable(str(gone[0]))} is gone since it was indexed"
            f"{f', and {len(gone) - 1} more' if len(gone) > 1 else ''}; put it back, or go on "
            "without it after `unclip data index`"
        )
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ValueError(f"the folder {where} cannot be read: {error.strerror}") from None
    shards = [folder / n for n in names if n.lower().endswith(_SHARD) and not n.startswith(".")]
    if not shards:
        packed = [name for name in names if name.lower().endswith((".tgz", ".gz", ".zst", ".xz"))]
        but = f"; {printable(packed[0])} is compressed: unpack it" if packed else ""
        raise ValueError(f"{where} holds no .tar shards{but}")
    return shards


def merge(report: Report, indices: Sequence[shard_index.Index]) -> None:
    """Add what the indices of several shards say could not be used."""
    for index in indices:
        report.images += index.images
        for there, found in ((report.problems, index.problems), (report.notes, index.notes)):
            for kind, names in found.items():
                there[kind] = [*there.get(kind, ()), *names]


class Shards:
    """Captioned images of several shards as `Pictures`; their bytes are read by a seek.

    Args:
        where: what a sentence calls all of it.
        paths: of the shards, of any kind that `shard_index` knows.
        template: of captions, where the shards have classes instead.

    Raises:
        ValueError: see `shard_index.load`; or there are classes and no template.
    """

    def __init__(self, where: str, paths: Sequence[Path], template: str = "") -> None:
        self.where, self.paths, self.template = printable(where), list(paths), template
        new = sum(shard_index.load(path) is None for path in self.paths)
        if new > _MANY:
            shard_index.announce(new)
        self.indices = list(shard_index.all_of(self.paths))
        self.columns = [index.columns for index in self.indices]
        if not template and any(index.classes for index in self.indices):
            raise ValueError(
                f"{self.where} has classes and no captions: --data.template 'a photo of a {{}}' "
                "makes captions of their names"
            )
        self.starts = [0, *accumulate(len(columns) for columns in self.columns)]
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def report(self) -> Report:
        """What the indices say, of all shards together."""
        report = Report(self.where)
        merge(report, self.indices)
        return report

    def __len__(self) -> int:
        return self.starts[-1]

    def sides(self) -> npt.NDArray[np.int32]:
        return np.concatenate([columns.sides for columns in self.columns])

    def places(self) -> npt.NDArray[np.uint32]:
        return np.concatenate([columns.places for columns in self.columns])

    def counts(self) -> npt.NDArray[np.int64]:
        return np.concatenate([columns.counts() for columns in self.columns])

    def name(self, number: int) -> str:
        shard, row = self._found(number)
        return f"{self.paths[shard].name}/{self.columns[shard].names[row]}"

    def captions(self, number: int) -> list[str]:
        shard, row = self._found(number)
        texts = self.columns[shard].captions(row)
        if not self.indices[shard].classes:
            return texts
        return [of_class(self.template, text) for text in texts]

    def image(self, number: int) -> bytes:
        shard, row = self._found(number)
        columns = self.columns[shard]
        offset, length = int(columns.offsets[row]), int(columns.lengths[row])
        path = self.paths[shard]
        try:
            file = self._open(shard)
            raw = os.pread(file.fileno(), length, offset)
        except OSError as error:
            raise ValueError(
                f"the shard {printable(str(path))} cannot be read: {error.strerror}"
            ) from None
        if len(raw) < length:
            raise ValueError(
                f"the shard {printable(str(path))} is shorter than when it was indexed"
            )
        return raw

    def digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for path, columns in zip(self.paths, self.columns, strict=True):
            digest.update(f"{path.name}\t{columns.digest()}\n".encode("utf-8", "surrogateescape"))
        if any(index.classes for index in self.indices):
            digest.update(self.template.encode())
        return digest.hexdigest()

    def _found(self, number: int) -> tuple[int, int]:
        """The number of the shard, and of the image within it."""
        shard = bisect_right(self.starts, number) - 1
        return shard, number - self.starts[shard]

    def _open(self, shard: int) -> BinaryIO:
        """Threads may share it: reads give the place, and a file that is closed to make room stays
        open for whoever holds it."""
        file = self._files.get(shard)
        if file is None:
            file = open_regular(self.indices[shard].unpacked or self.paths[shard])
            self._files[shard] = file
            while len(self._files) > _OPEN:
                self._files.popitem(last=False)
        return file
