"""A model's images as people are shown them: a folder of pictures, and the captions they are for.

A caption is that of the folder's captions (`data/captions.py`), or the prompt that the notes of a
PNG say it was made for, as `unclip generate` and `evaluation/generated.py` write them.
"""

import warnings
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from unclip.checks import Notice, many, printable
from unclip.data.captions import clean, find
from unclip.data.transforms import image_size
from unclip.data.walk import walk
from unclip.files import real_path
from unclip.outputs.images import read_info


@dataclass(frozen=True)
class Picture:
    """An image file and what it was made for; "" where nothing says so."""

    file: Path
    caption: str


@dataclass(frozen=True)
class Shown:
    """The images of one model.

    Attributes:
        name: what tables call it, different for each model.
        pictures: in the order of their names.
    """

    name: str
    pictures: tuple[Picture, ...]

    @cached_property
    def by_caption(self) -> dict[str, list[Picture]]:
        """Those that have a caption."""
        found: dict[str, list[Picture]] = defaultdict(list)
        for picture in self.pictures:
            if picture.caption:
                found[picture.caption].append(picture)
        return dict(found)


def read_folders(folders: list[Path]) -> list[Shown]:
    """The images of several models, to be compared.

    Raises:
        ValueError: fewer than two folders, one is named twice, is none, or holds no image.
    """
    if len(folders) < 2:
        raise ValueError("there is nothing to compare: give two folders of images or more")
    places = [real_path(folder) for folder in folders]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ValueError(
                f"{printable(str(folders[number]))} is named twice: images cannot be compared "
                "with themselves"
            )
    names = _names(folders)
    return [Shown(name, pictures_in(place)) for name, place in zip(names, folders, strict=True)]


def pictures_in(folder: Path) -> tuple[Picture, ...]:
    """The images of a folder, in the order of their names; those that cannot be read and sheets of
    several are left out, with a notice.

    Raises:
        ValueError: it is no folder, or holds no image.
    """
    where = printable(str(folder))
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"{where} {what}; give a folder of generated images")
    captioned = {one.name: one.captions[0] for one in find(folder)[0]}
    found, damaged, sheets = [], 0, 0
    for name in sorted(walk(folder).images):
        caption: str | None = captioned.get(name)
        if caption is None:
            try:
                image_size(folder / name)
            except ValueError:
                damaged += 1
                continue
            caption = _noted(folder / name)
        if caption is None:
            sheets += 1
        else:
            found.append(Picture(folder / name, caption))
    if damaged:
        said = f"{many(damaged, 'images')} of {where} cannot be read: left out"
        warnings.warn(said, Notice, stacklevel=2)
    if sheets:
        said = f"{many(sheets, 'sheets are')} in {where}, which show several images: left out"
        warnings.warn(said, Notice, stacklevel=2)
    if not found:
        raise ValueError(f"there is no image in {where}; give a folder of generated images")
    return tuple(found)


def _noted(file: Path) -> str | None:
    """The caption in an image's notes, "" where there are none; None of a sheet of several."""
    try:
        prompt = read_info(file).get("prompt", "")
    except ValueError:
        return ""
    if isinstance(prompt, list):
        return None
    return clean(prompt) if isinstance(prompt, str) else ""


def _names(folders: list[Path]) -> list[str]:
    """The folders' own names, or as much of their paths as tells them apart."""
    paths = [real_path(folder) for folder in folders]
    parts = 1
    while True:
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return [printable(name) for name in names]
        parts += 1
