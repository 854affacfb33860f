"""What is asked: of whom, in which order, on which side."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tests.evaluation.people.sets import image_set
from unclip.evaluation.people.folders import read_folders
from unclip.evaluation.people.questions import GRID, KINDS, questions_of, seat


def test_every_kind_for_every_two_models(tmp_path: Path) -> None:
    models = read_folders([image_set(tmp_path / name, k, each=17) for k, name in enumerate("abc")])
    questions, lacking = questions_of(models, (), 5, 0)
    assert lacking == []
    counts = Counter((one.kind, one.models) for one in questions)
    pairs = (("a", "b"), ("a", "c"), ("b", "c"))
    expected = {("photorealism", pair): 5 for pair in pairs}
    expected |= {("caption", pair): 5 for pair in pairs}
    expected |= {("diversity", pair): 3 for pair in pairs}  # a caption has one grid
    assert counts == expected
    for one in questions:
        sizes = [len(side) for side in one.images]
        assert sizes == ([GRID, GRID] if one.kind == "diversity" else [1, 1])
        assert [side[0].parent.name for side in one.images] == list(one.models)
        assert len({file.name[0] for side in one.images for file in side}) == 1  # one caption
    first = [one.caption for one in questions if (one.kind, one.models) == ("caption", pairs[0])]
    assert len(set(first[:3])) == 3  # each caption once before one comes again
    assert len({one.key for one in questions}) == len(questions)


def test_an_order_and_sides_for_each_person(tmp_path: Path) -> None:
    models = read_folders([image_set(tmp_path / name, k, each=40) for k, name in enumerate("ab")])
    questions, _ = questions_of(models, ("caption", "photorealism"), 100, 0)
    mine, hers = seat(questions, 0, ""), seat(questions, 0, "anna")
    assert mine == seat(questions, 0, "")
    assert {one.question.key for one in mine} == {one.question.key for one in hers}
    assert mine != hers != seat(questions, 1, "anna")
    assert 70 < sum(one.swapped for one in mine) < 130
    assert {one.question.kind for one in mine[:2]} == {"caption", "photorealism"}  # a round
    swapped = next(one for one in mine if one.swapped)
    assert swapped.sides[0][0].parent.name == "b"
    assert swapped.preferred("first") == "b"
    assert [swapped.preferred(choice) for choice in ("second", "unsure")] == ["a", ""]
    straight = next(one for one in mine if not one.swapped)
    assert straight.preferred("first") == "a"


def test_images_without_captions_are_asked_of_photorealism_alone(tmp_path: Path) -> None:
    for k, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8), (k, i, 0)).save(tmp_path / name / f"{i}.png")
    models = read_folders([tmp_path / "a", tmp_path / "b"])
    questions, lacking = questions_of(models, (), 10, 0)
    assert [(one.kind, one.caption) for one in questions] == [("photorealism", "")] * 3
    assert [text.partition(" ")[0] for text in lacking] == ["caption", "diversity"]
    with pytest.raises(ValueError, match="no caption has 16 images on both sides"):
        questions_of(models, ("diversity",), 10, 0)


def test_a_key_follows_the_bytes(tmp_path: Path) -> None:
    folders = [image_set(tmp_path / name, k, 1, ("a star",)) for k, name in enumerate("ab")]
    before, _ = questions_of(read_folders(folders), ("caption",), 1, 0)
    Image.new("RGB", (8, 8)).save(folders[0] / "0-00.png")
    (folders[0] / "0-00.txt").write_text("a star")
    after, _ = questions_of(read_folders(folders), ("caption",), 1, 0)
    assert before[0].key != after[0].key


def test_the_same_images_leave_nothing_to_choose(tmp_path: Path) -> None:
    models = read_folders([image_set(tmp_path / "a", 5), image_set(tmp_path / "a2" / "a", 5)])
    with pytest.raises(ValueError, match="the same images"):
        questions_of(models, (), 5, 0)


def test_one_image_each(tmp_path: Path) -> None:
    models = read_folders([image_set(tmp_path / n, k, 1, ("x",)) for k, n in enumerate("ab")])
    questions, lacking = questions_of(models, (), 100, 7)
    assert [one.kind for one in questions] == list(KINDS[:2])
    assert len(lacking) == 1
