"""Whose images they are, and for which captions."""

from pathlib import Path

import pytest
from PIL import Image

from tests.evaluation.people.sets import image_set
from unclip.checks import Notice
from unclip.evaluation.people.folders import read_folders
from unclip.outputs.images import save_png


def test_captions_of_notes_and_of_texts(tmp_path: Path) -> None:
    one = image_set(tmp_path / "one", 200)
    (tmp_path / "two").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "two" / "a.jpg")
    (tmp_path / "two" / "a.txt").write_text("a red star\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "two" / "b.png")
    noted, beside = read_folders([one, tmp_path / "two"])
    assert {text: len(found) for text, found in noted.by_caption.items()} == {
        "a red star": 2, "a blue ring": 2, "a green heart": 2,
    }  # fmt: skip
    assert [picture.caption for picture in beside.pictures] == ["a red star", ""]
    assert [noted.name, beside.name] == ["one", "two"]


def test_what_is_no_image_of_one_caption_is_left_out(tmp_path: Path) -> None:
    one, two = image_set(tmp_path / "one", 1), image_set(tmp_path / "two", 2)
    save_png(Image.new("RGB", (8, 8)), one / "sheet.png", {"prompt": ["a", "b"], "n": 2})
    (one / "broken.png").write_bytes(b"nothing")
    with pytest.warns(Notice) as said:
        first, _ = read_folders([one, two])
    assert len(first.pictures) == 6
    assert [str(one.message).partition(" of ")[0][:20] for one in said] == [
        "1 image", "1 sheet is in " + str(tmp_path)[:6],
    ]  # fmt: skip


def test_folders_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    folders = [image_set(tmp_path / run / "images", 1) for run in ("a", "b")]
    assert [model.name for model in read_folders(folders)] == ["a/images", "b/images"]


def test_refused(tmp_path: Path) -> None:
    one = image_set(tmp_path / "one", 1)
    (tmp_path / "empty").mkdir()
    for folders, says in (
        ([one], "give two folders"),
        ([one, one], "named twice"),
        ([one, tmp_path / "." / "one"], "named twice"),
        ([one, tmp_path / "none"], "does not exist"),
        ([one, one / "0-00.png"], "is not a folder"),
        ([one, tmp_path / "empty"], "there is no image"),
    ):
        with pytest.raises(ValueError, match=says):
            read_folders(folders)
