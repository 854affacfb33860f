"""COCO's captions: "coco:annotations.json:images/".

The JSON lists images (`id`, `file_name`, `width`, `height`) and annotations (`image_id`,
`caption`), of which each image has about five: they are alternatives, and one is drawn each time
(Chen et al., 2015, "Microsoft COCO Captions").
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unclip.checks import printable, shown
from unclip.data.captions import EMPTY, MISSING, ORPHANS, UNREADABLE, Report, clean
from unclip.data.columns import Builder
from unclip.data.pictures import Files, PictureSource
from unclip.data.registry import Request
from unclip.data.tables import inside
from unclip.data.transforms import image_size
from unclip.files import read_text

ABSENT = "images that are listed but not there"
_MOST = 2**31  # bytes; the captions of COCO's training images are 92 MB
_BETWEEN = re.compile(r"(?<=\.json):", re.IGNORECASE)


def open_format(request: Request) -> PictureSource:
    """See `registry.open_source`."""
    annotations, images = places_of(request.place)
    where = f"coco:{request.place}"
    report = Report(where)
    builder = Builder()
    for name, size, captions in _listed(annotations, report):
        try:
            if size is None:
                size = image_size(images / name, name=name)
            elif not (images / name).is_file():
                report.problem(ABSENT, name)
                continue
        except ValueError as error:
            report.problem(UNREADABLE, str(error))
            continue
        builder.add(name, captions, size, (0, 0))
    pictures = Files(where, images, builder.columns())
    return PictureSource.of(request, pictures, report, "images that the .json gives captions")


def places_of(place: str) -> tuple[Path, Path]:
    """The file with the annotations and the folder with the images.

    Raises:
        ValueError: not both are said, or there.
    """
    parts = _BETWEEN.split(place, maxsplit=1)
    if len(parts) < 2 or not parts[1]:
        raise ValueError(f"coco:{place} must name a .json file and a folder: coco:FILE.json:FOLDER")
    annotations, images = map(Path, parts)
    if not images.is_dir():
        raise ValueError(f"the folder of images {printable(str(images))} does not exist")
    return annotations, images


def _listed(file: Path, report: Report) -> Iterator[tuple[str, tuple[int, int] | None, list[str]]]:
    """Name, size (where it is said) and captions of each image, by name.

    Raises:
        ValueError: the file is not as described at the top.
    """
    where = printable(str(file))
    try:
        content = json.loads(read_text(file, _MOST))
    except RecursionError:
        raise ValueError(f"{where} is not valid JSON") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where} must hold a JSON object with images and annotations")
    captions: dict[Any, list[str]] = {}
    for number, row in enumerate(_rows(content, "annotations", where)):
        text, key = row.get("caption"), _key(row, "image_id", where, number)
        if not isinstance(text, str):
            what = (
                "no caption: it is of another task" if text is None else "a caption that is no text"
            )
            raise ValueError(f"{where}: annotation {number} has {what}")
        captions.setdefault(key, []).append(clean(text))
    images: dict[str, tuple[Any, dict[str, Any]]] = {}
    for number, row in enumerate(_rows(content, "images", where)):
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{where}: image {number} has no file_name")
        name = inside("", name, f"{where}: image {number}")
        if name in images:
            raise ValueError(f"{where} lists {shown(name)} twice")
        images[name] = _key(row, "id", where, number), row
    report.images = len(images)
    for name in sorted(images):
        key, row = images[name]
        texts = captions.pop(key, None)
        if not texts or not any(texts):
            report.problem(EMPTY if texts else MISSING, name)
            continue
        yield name, _size(row), list(dict.fromkeys(filter(None, texts)))
    for key in captions:
        report.problem(ORPHANS, f"image_id {shown(key)}")


def _rows(content: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    rows = content.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{where} has no list of objects under {name!r}")
    return rows


def _key(row: dict[str, Any], name: str, where: str, number: int) -> int | str:
    key = row.get(name)
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise ValueError(f"{where}: row {number} has no {name}")
    return key


def _size(row: dict[str, Any]) -> tuple[int, int] | None:
    width, height = row.get("width"), row.get("height")
    whole = all(type(side) is int and 0 < side < 2**31 for side in (width, height))
    return (width, height) if whole else None  # type: ignore[return-value]
