"""COCO's captions: all of an image's are alternatives, and every way in which the file is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_folder import put
from unclip.data import captions, coco
from unclip.data.pictures import PictureSource
from unclip.data.registry import open_source


def annotations() -> dict[str, list[dict[str, Any]]]:
    images = [
        {"id": number, "file_name": f"val/{number}.png", "width": 40, "height": 32}
        for number in range(4)
    ]
    texts = [
        {"id": 10 * number + which, "image_id": number, "caption": f" picture {number}, {which}\n"}
        for number in range(4)
        for which in range(5)
    ]
    return {"info": [], "images": images, "annotations": texts}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        put(tmp_path / "images" / "val" / f"{number}.png", seed=number)
    return tmp_path


def opened(folder: Path, content: Any) -> PictureSource:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "captions.json").write_text(text)
    source = open_source(f"coco:{folder}/captions.json:{folder}/images", size=16)
    assert isinstance(source, PictureSource)
    return source


def test_all_captions_are_alternatives(folder: Path) -> None:
    source = opened(folder, annotations())
    assert (len(source), source.check().captions) == (4, 20)
    drawn = {source[number * 4 + 1]["caption"] for number in range(60)}
    assert drawn == {f"picture 1, {which}" for which in range(5)}
    assert source[6]["image"].shape == (3, 16, 16)


def test_what_is_not_there_is_counted(folder: Path) -> None:
    content = annotations()
    del content["images"][0]["width"]
    content["images"].append({"id": 8, "file_name": "gone.png", "width": 9, "height": 9})
    content["images"].append({"id": 9, "file_name": "mute.png"})
    content["annotations"] += [
        {"image_id": 8, "caption": "gone"},
        {"image_id": 77, "caption": "of nothing"},
    ]
    source = opened(folder, content)
    assert len(source) == 4
    assert {kind: list(names) for kind, names in source.check().problems.items()} == {
        coco.ABSENT: ["gone.png"],
        captions.MISSING: ["mute.png"],
        captions.ORPHANS: ["image_id 77"],
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"annotations": 7}, "no list of objects under 'annotations'"),
        ({"images": [1]}, "no list of objects under 'images'"),
        ({"annotations": [{"image_id": 0, "bbox": [1]}]}, "annotation 0 has no caption"),
        ({"annotations": [{"image_id": 0, "caption": ["a"]}]}, "a caption that is no text"),
        ({"annotations": [{"caption": "a"}]}, "has no image_id"),
        ({"images": [{"id": 0}]}, "image 0 has no file_name"),
        ({"images": [{"id": 0, "file_name": "../x.png"}]}, "not a path inside"),
        ({"images": [{"id": 0, "file_name": "a"}] * 2}, "twice"),
        ({"images": []}, "holds no images"),
    ],
)
def test_wrong_files_are_one_sentence(folder: Path, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        opened(folder, annotations() | change)


def test_wrong_names_are_one_sentence(folder: Path) -> None:
    for text, reason in (("[]", "a JSON object"), ("{", "not valid JSON"), ("[" * 9999, "JSON")):
        with pytest.raises(ValueError, match=reason):
            opened(folder, text)
    for name, reason in (
        ("coco:captions.json", "must name a .json file and a folder"),
        (f"coco:captions.json:{folder}/nowhere", "folder of images .* does not exist"),
        (f"coco:nowhere.json:{folder}", "cannot read nowhere.json"),
    ):
        with pytest.raises(ValueError, match=reason):
            open_source(name, size=16)
