"""Data sets of the `datasets` library: "hf:PLACE", or "hf:PLACE:SPLIT" for another than "train".

PLACE is a folder that `save_to_disk` wrote, a Parquet or Arrow file, several by braces, a folder of
them or of images (`imagefolder`), or a data set on the Hugging Face Hub: owner/name, or
owner/name/configuration. Only the last is fetched, through the library's own cache.
"""

import re
from dataclasses import replace
from pathlib import Path

from unclip.checks import printable, shown
from unclip.data.braces import expand
from unclip.data.pictures import PictureSource
from unclip.data.registry import Request
from unclip.data.sources import Source
from unclip.data.tables import needed
from unclip.data.webdataset import Shards
from unclip.files import read_json

_ENDINGS = (".parquet", ".arrow")
_SPLIT = re.compile(r"(.+):([A-Za-z][\w.-]*)")
_HUB = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w.-]+))?")
_OF_SPLIT = re.compile(r"^(train|test|val|valid|validation|dev)\b", re.IGNORECASE)


def open_format(request: Request) -> Source:
    """See `registry.open_source`. Files that have no index get one."""
    place, split = _cut(request.place)
    if not place:
        raise ValueError("hf: names no data; give a folder, a file, or owner/name on the Hub")
    path = Path(place)
    if not path.exists() and "{" not in place:
        files = _on_hub(place, split)
    else:
        files = _files(path, split) if path.exists() else [Path(name) for name in expand(place)]
    if not files:
        from unclip.data.folder import open_format as open_folder

        return open_folder(replace(request, place=place))
    shards = Shards(f"hf:{request.place}", files, request.template)
    return PictureSource.of(request, shards, shards.report(), "rows with an image and a text")


def _cut(place: str) -> tuple[str, str]:
    """The place, and the split that it ends with, if any."""
    match = _SPLIT.fullmatch(place)
    if match is None or Path(place).exists():
        return place, ""
    return match[1], match[2]


def _files(path: Path, split: str) -> list[Path]:
    """The files of a data set on this disk; none if it is a folder of images.

    Raises:
        ValueError: there is no such split.
    """
    where = printable(str(path))
    if path.is_file():
        if path.suffix.lower() not in _ENDINGS:
            raise ValueError(f"{where} is neither {' nor '.join(_ENDINGS)}")
        return [path]
    if (path / "dataset_dict.json").is_file():
        names = read_json(path / "dataset_dict.json").get("splits", [])
        wanted = split or ("train" if "train" in names else names[0] if len(names) == 1 else "")
        if not isinstance(names, list) or wanted not in names:
            raise ValueError(
                f"{where} has no split {shown(wanted or 'train')}; it has: "
                f"{', '.join(map(str, names))}"
            )
        return _files(path / wanted, "")
    if (path / "state.json").is_file():
        listed = read_json(path / "state.json").get("_data_files", [])
        try:
            return [path / Path(one["filename"]).name for one in listed]
        except (TypeError, KeyError):
            raise ValueError(f"{where}/state.json lists no files of data") from None
    for ending in _ENDINGS:
        found = sorted(
            one for one in path.rglob(f"*{ending}")
            if not any(part.startswith(".") for part in one.relative_to(path).parts)
            and one.name.lower() not in ("metadata.parquet", "captions.parquet")
        )  # fmt: skip
        if found:
            return _of_split(found, split, where)
    return []


def _of_split(files: list[Path], split: str, where: str) -> list[Path]:
    """Those of a split, where their names begin with one, as on the Hub."""
    named = {file: match[1].lower() for file in files if (match := _OF_SPLIT.match(file.stem))}
    if not split and not named:
        return files
    wanted = split.lower() or "train"
    chosen = [file for file in files if named.get(file, file.stem.lower()) == wanted]
    if not chosen:
        there = sorted(set(named.values()))
        raise ValueError(f"{where} has no split {wanted!r}; it has: {', '.join(there) or 'none'}")
    return chosen


def _on_hub(place: str, split: str) -> list[Path]:
    """The files of a data set in the library's cache, which fetches them if it may.

    Raises:
        ValueError: it is no name of one, or cannot be had.
    """
    match = _HUB.fullmatch(place)
    if match is None:
        raise ValueError(
            f"{printable(place)} does not exist here, and data sets on the Hub are named owner/name"
        )
    datasets = needed("datasets", f"hf:{place}, which is not on this disk,")
    try:
        data = datasets.load_dataset(match[1], match[2], split=split or "train")
        files = [Path(one["filename"]) for one in data.cache_files]
    except Exception as error:  # the library raises a dozen kinds, of the network and of others
        said = printable(next(iter(str(error).splitlines()), type(error).__name__))[:300]
        raise ValueError(f"hf:{printable(place)} cannot be opened: {said}") from None
    if not files:
        raise ValueError(f"hf:{printable(place)} lies in no files that can be read")
    return files
