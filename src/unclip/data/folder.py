"""A folder of images with captions as a source: "PATH", or "folder:PATH"."""

import copy
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from unclip.checks import many, printable, shown
from unclip.data.captions import FORMATS, UNREADABLE, Captioned, Report, counted, find
from unclip.data.held_out import is_held_out
from unclip.data.registry import Request
from unclip.data.sources import Sample
from unclip.data.transforms import open_image, square, to_bytes
from unclip.randomness import Draws

_TRIES = 16


def open_format(request: Request) -> "FolderSource":
    """See `registry.open_source`."""
    return FolderSource(
        request.place,
        request.size,
        seed=request.seed or 0,
        split=request.split,
        held_out=request.held_out,
        crop=request.crop if request.split == "train" else "centre",
    )


class FolderSource:
    """A folder of images with captions: a .txt beside each, metadata.jsonl, or captions.csv.

    Opening it finds all images and reads their headers and captions, in threads; what cannot be
    used is skipped and reported by `check()`. Images whose shorter side is below `min_side` (half
    of `size` by default) are skipped, since enlarging them would teach blur; those between that
    and `size` are enlarged and counted. An image that turns out undecodable later is replaced by
    another, chosen by seed and index, and named in the sample.

    Args:
        path: the folder.
        size: side of the square images, pixels.
        seed: of crops, choice of captions and replacements.
        crop: "random" along the longer side, anew in each epoch, or "centre".
        split: "train", "held-out" or "all". An image's split follows from its name, so that it
            stays when images are added.
        held_out: fraction of the images that are held out; none are where all would be.
        min_side: shorter sides below this many pixels are skipped.

    Raises:
        ValueError: no folder, no usable image in it, or a malformed table.
    """

    endless = False

    def __init__(
        self,
        path: str | Path,
        size: int,
        *,
        seed: int = 0,
        crop: Literal["centre", "random"] = "random",
        split: str = "all",
        held_out: float = 0.0,
        min_side: int | None = None,
    ) -> None:
        if not 1 <= size <= 4096:
            raise ValueError(f"the image size must be 1 to 4096 pixels, not {size}")
        if not 0.0 <= held_out < 1.0 or (split == "held-out" and held_out == 0.0):
            raise ValueError(
                f"held_out is {shown(held_out)}; give the fraction of images to hold out, such as "
                "0.05"
            )
        self.root = Path(path)
        self.size = size
        self.seed = seed
        self.crop: Literal["centre", "random"] = crop
        self.split = split
        self.held_out = held_out
        self.min_side = (size + 1) // 2 if min_side is None else min_side
        self._unseen: list[Captioned] = []
        self.items, self.report = self._find()

    def _find(self) -> tuple[list[Captioned], Report]:
        where = printable(str(self.root))
        if not self.root.is_dir():
            what = "is not a folder" if self.root.exists() else "does not exist"
            raise ValueError(
                f"the data folder {where} {what}; give a folder of images with captions: "
                f"{FORMATS}, or emoji for the built-in world"
            )
        items, report = find(self.root, self.size, self.min_side)
        if not items:
            what = "usable image with a caption" if report.images else "images"
            there = "; ".join(counted(report.problems)[:3])
            raise ValueError(
                f"{where} holds no {what}{f', but {there}' if there else ''}; "
                + (report.advice or f"expected images with {FORMATS}")
            )
        held_out = [one for one in items if is_held_out(one.name, self.held_out)]
        if len(held_out) == len(items):
            held_out = []
        report.held_out = len(held_out)
        if self.split == "all":
            return items, report
        if self.split == "held-out":
            if not held_out:
                raise ValueError(
                    f"the split 'held-out' of {where} is empty: none of "
                    f"{many(report.usable, 'images')} is held out, by their names; change the "
                    "fraction"
                )
            return held_out, report
        out = {one.name for one in held_out}
        self._unseen = held_out
        return [one for one in items if one.name not in out], report

    def unseen(self) -> "FolderSource | None":
        """See `sources.HoldsOut`; of what is opened for training alone."""
        if not self._unseen:
            return None
        other = copy.copy(self)
        other.items, other.split, other.crop, other._unseen = self._unseen, "held-out", "centre", []
        return other

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(index)
        draw = Draws(self.seed, index)
        passed_over: list[str] = []
        number = index % len(self.items)
        for _ in range(_TRIES):
            item = self.items[number]
            try:
                image = open_image(self.root / item.name, size=self.size)
            except ValueError as error:
                passed_over.append(str(error))
                number = draw.below(len(self.items))
                continue
            generator = torch.Generator().manual_seed(draw.state)
            image = square(image, self.size, self.crop, generator)
            sample: Sample = {"image": to_bytes(image), "caption": draw.pick(item.captions)}
            if passed_over:
                sample["unreadable"] = passed_over
            return sample
        raise ValueError(
            f"{_TRIES} images in a row cannot be decoded, the last because {passed_over[-1]}; "
            f"is {self.root} still there?"
        )

    def caption(self, index: int) -> str:
        """The caption of a sample whose image can be read, without reading it."""
        return Draws(self.seed, index).pick(self.items[index % len(self.items)].captions)

    def captions(self) -> Iterator[str]:
        """Every caption of every image."""
        return (caption for item in self.items for caption in item.captions)

    def check(self, decode: bool = False) -> Report:
        """The report on the whole folder; `decode` also decodes every usable image, in threads.

        What only decoding finds is reported, but keeps its index: it is replaced when it is read.
        """
        report = replace(
            self.report,
            problems={kind: list(names) for kind, names in self.report.problems.items()},
            notes={kind: list(names) for kind, names in self.report.notes.items()},
        )
        if decode:
            with ThreadPoolExecutor() as pool:
                for error in filter(None, pool.map(self._decode_error, self.items)):
                    report.problem(UNREADABLE, error)
                    report.usable -= 1
        return report

    def _decode_error(self, item: Captioned) -> str | None:
        try:
            open_image(self.root / item.name, size=self.size)
        except ValueError as error:
            return str(error)
        return None

    def fingerprint(self) -> str:
        """Of the names, captions and settings, not of the pixels."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"folder {self.size} {self.seed} {self.crop}\n".encode())
        for item in self.items:
            digest.update("\t".join((item.name, *item.captions, "\n")).encode("utf-8", "replace"))
        return digest.hexdigest()
