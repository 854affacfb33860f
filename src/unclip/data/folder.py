"""A folder of images with captions as a source: "PATH", or "folder:PATH"."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unclip.checks import printable
from unclip.data.captions import FORMATS, Captioned, find
from unclip.data.held_out import place_of
from unclip.data.pictures import PictureSource, asked, check
from unclip.data.registry import Request


def open_format(request: Request) -> "FolderSource":
    """See `registry.open_source`."""
    return FolderSource(request.place, request.size, template=request.template, **asked(request))


class FolderSource(PictureSource):
    """A folder of images with captions: a .txt beside each, metadata.jsonl, or captions.csv.

    Opening it finds all images and reads their headers and captions, in threads; what cannot be
    used is skipped and reported by `check()`.

    Args:
        path: the folder.
        size: side of the square images, pixels.
        template: of captions of images that have none, see `captions.find`.
        more: see `PictureSource`.

    Raises:
        ValueError: no folder, no usable image in it, or a malformed table.
    """

    def __init__(self, path: str | Path, size: int, *, template: str = "", **more: Any) -> None:
        check(size, more.get("split", "all"), more.get("held_out", 0.0))
        self.root = Path(path)
        where = printable(str(self.root))
        if not self.root.is_dir():
            what = "is not a folder" if self.root.exists() else "does not exist"
            raise ValueError(
                f"the data folder {where} {what}; give a folder of images with captions: "
                f"{FORMATS}, or emoji for the built-in world"
            )
        found, report = find(self.root, template)
        pictures = _Found(where, self.root, found)
        super().__init__(pictures, report, size, expected=f"images with {FORMATS}", **more)
        self._found = found

    @property
    def items(self) -> list[Captioned]:
        """The images of the split."""
        return [self._found[number] for number in self.numbers]

    def fingerprint(self) -> str:
        """Of the names, captions and settings, not of the pixels."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"folder {self.size} {self.seed} {self.crop}\n".encode())
        for item in self.items:
            digest.update("\t".join((item.name, *item.captions, "\n")).encode("utf-8", "replace"))
        return digest.hexdigest()


class _Found:
    """What `captions.find` gives, as `Pictures`."""

    def __init__(self, where: str, root: Path, found: list[Captioned]) -> None:
        self.where, self.root, self.found = where, root, found

    def __len__(self) -> int:
        return len(self.found)

    def sides(self) -> npt.NDArray[np.int32]:
        sides = [(one.shorter, one.longer) for one in self.found]
        return np.array(sides, np.int32).reshape(-1, 2)

    def places(self) -> npt.NDArray[np.uint32]:
        return np.array([place_of(one.name) for one in self.found], np.uint32)

    def counts(self) -> npt.NDArray[np.int64]:
        return np.array([len(one.captions) for one in self.found], np.int64)

    def name(self, number: int) -> str:
        return self.found[number].name

    def captions(self, number: int) -> tuple[str, ...]:
        return self.found[number].captions

    def image(self, number: int) -> Path:
        return self.root / self.found[number].name

    def digest(self) -> str:
        """Changes with names, captions, sizes, and bytes of the files."""
        digest = hashlib.blake2b(digest_size=16)
        for one in self.found:
            try:
                length = (self.root / one.name).stat().st_size
            except OSError:
                length = -1
            row = (one.name, *one.captions, f"{one.shorter} {one.longer} {length}\n")
            digest.update("\t".join(row).encode("utf-8", "replace"))
        return digest.hexdigest()
