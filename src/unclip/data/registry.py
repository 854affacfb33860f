"""The kinds of data: a name on the command line → what opens it. A new format is a file and a row.

A name is "KIND:PLACE", a KIND that needs no place, or the path of a folder. Nothing but this file
takes such a name apart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from unclip.checks import shown
from unclip.config import to_mapping
from unclip.data.world.scene import SPLITS
from unclip.lazy import imported

if TYPE_CHECKING:
    from unclip.data.sources import Source, Stream

FOLDER: Final = "folder"  # the kind of a name that says none
HELD_OUT: Final = 0.05  # of data that holds out a fraction, where none is said


@dataclass(frozen=True)
class Request:
    """What is asked of a format.

    Args:
        place: what follows the kind's colon; "" where nothing does.
        size: side of the square images, pixels.
        seed: of everything that is drawn; None leaves it to the options, or is 0.
        split: "train", "held-out" or "all".
        held_out: fraction of the images that "train" leaves out.
        crop: of oblong images in "train", "random" or "centre"; elsewhere the centre is taken.
        options: the format's own, by name.
        template: of captions of images that only a class is known of, with "{}" for its name.
        all_options: those of all formats, for one that opens others.
    """

    place: str
    size: int
    seed: int | None
    split: str
    held_out: float
    options: Mapping[str, Any]
    crop: Literal["random", "centre"] = "random"
    template: str = ""
    all_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """One kind of data, and what can be known of it before it is opened.

    Args:
        open: gives the source or stream that is asked for; ValueError for what cannot be opened.
            Or "module:name", which is imported when it is first used, as drawing and decoding need
            more than a list of flags does.
        names: how it is named, for a user who named something else.
        holds_out: what it keeps from training: a "fraction" that is asked for (data.held_out), a
            part that it chooses "itself", or "nothing".
        alone: whether the kind is a name without a place.
        ground_truth: whether it knows what its images show, as `WorldSource` does.
        smallest: smallest side of its images, pixels.
    """

    open: "Callable[[Request], Source | Stream] | str"
    names: str
    holds_out: Literal["fraction", "itself", "nothing"] = "nothing"
    alone: bool = False
    ground_truth: bool = False
    smallest: int = 1


FORMATS: dict[str, Format] = {
    FOLDER: Format(
        "unclip.data.folder:open_format", "the path of a folder of captioned images", "fraction"
    ),
    "wds": Format(
        "unclip.data.webdataset:open_format",
        "wds:SHARDS (tar shards, such as wds:shards/{000..099}.tar)",
        "fraction",
    ),
    "hf": Format(
        "unclip.data.huggingface:open_format",
        "hf:DATA (a saved data set, Parquet or Arrow files, or owner/name on the Hub)",
        "fraction",
    ),
    "coco": Format(
        "unclip.data.coco:open_format",
        "coco:FILE.json:FOLDER (COCO's captions and images)",
        "fraction",
    ),
    "mix": Format(
        "unclip.data.mixture:open_format",
        "'mix:3 DATA + 1 DATA' (several, in proportion)",
        "fraction",
    ),
    "emoji": Format(
        "unclip.data.world.source:open_format",
        "emoji, emoji:shapes or emoji:emoji (the built-in world)",
        "itself",
        alone=True,
        ground_truth=True,
        smallest=32,
    ),
}


def parse(name: str) -> tuple[str, str]:
    """A name's kind and place. What names no kind is a folder's path, "C:\\photos" too; nothing is
    looked for on the disk, and "./emoji" is a folder of that name."""
    kind, colon, place = name.partition(":")
    if kind in FORMATS and (colon or FORMATS[kind].alone):
        return kind, place
    return FOLDER, name


def format_of(name: str) -> Format:
    """What is known of the data of this name."""
    return FORMATS[parse(name)[0]]


def open_source(
    name: str,
    *,
    size: int,
    seed: int | None = None,
    split: str = "train",
    held_out: float = 0.0,
    options: Mapping[str, Any] | None = None,
    crop: Literal["random", "centre"] = "random",
    template: str = "",
) -> "Source | Stream":
    """Open data by its name.

    Args:
        name: see the top of this file.
        size, seed, split, held_out, crop, template: see `Request`.
        options: kind → its options, as a mapping or a dataclass; other kinds' are left alone.

    Raises:
        ValueError: unknown names and options, and what the format says.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
    kind, place = parse(name)
    if kind == FOLDER:
        _check_path(place)
    given = (options or {}).get(kind, {})
    given = given if isinstance(given, Mapping) else to_mapping(given)
    request = Request(place, size, seed, split, held_out, given, crop, template, options or {})
    source: Source | Stream = imported(FORMATS[kind].open)(request)
    return source


def _check_path(name: str) -> None:
    """Names that are none of a folder, and were hardly meant as one."""
    if not name:
        raise ValueError(
            "the name of the data is empty; give a folder of images with captions, such as ./images"
        )
    if "://" in name:
        raise ValueError(f"{name!r} is an address; download the data and give the folder")
    kind, colon, _ = name.partition(":")
    if colon and len(kind) > 1 and kind.isidentifier() and not Path(name).exists():
        known = "; ".join(one.names for one in FORMATS.values())
        raise ValueError(f"there is no data of the kind {shown(kind)}; known: {known}")
