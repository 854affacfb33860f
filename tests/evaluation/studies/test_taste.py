"""Ratings of tables and of the built-in world, and probes of both."""

import csv
from pathlib import Path

import pytest

from tests.conftest import captioned_folder
from unclip.data.world.scene import WorldConfig
from unclip.data.world.world import World
from unclip.evaluation.features.extractor import open_extractor
from unclip.evaluation.metrics.aesthetic import Probe
from unclip.evaluation.studies.taste import read_ratings, table_fit, taste, world_fit


def test_taste_is_what_it_says() -> None:
    world = World(WorldConfig(size=32))
    scenes = [world.scene(index) for index in range(300)]
    ratings = [taste(scene) for scene in scenes]
    assert 1 <= min(ratings) < 5 < max(ratings) <= 10
    one = next(s for s in scenes if len(s.objects) == 1 and s.objects[0].colour == "red")
    thing = one.objects[0]
    far = ((thing.x - 0.5) ** 2 + (thing.y - 0.5) ** 2) ** 0.5 / 0.5**0.5
    expected = 2 + 3 + 2 * min(1, 2 * thing.extent) + 2 * (1 - far)
    assert taste(one) == pytest.approx(expected + (one.background.kind != "flat"))


def test_the_machinery_finds_the_taste() -> None:
    """By the bundled model's CLIP, which sees colours and sizes."""
    extractor = open_extractor("clip", device="cpu")
    found = world_fit(extractor, WorldConfig(size=32, max_objects=1), n=400)
    assert found.r2.low > 0.2
    assert found.probe.extractor == extractor.hash


def test_a_table_of_ratings(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rated"
    captioned_folder(folder, 24)
    table = folder / "ratings.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["File_Name", "Rater", "Rating"])
        for number in range(24):
            for rater in (0, 1):  # who differ by 2
                rows.writerow([f"{number:03}.png", rater, number % 5 + 2 * rater])
    rated = read_ratings(table)
    assert [file.name for file in rated.files[:2]] == ["000.png", "001.png"]
    assert rated.ratings[:6] == [1, 2, 3, 4, 5, 1]
    found = table_fit(tiny_model, rated, device="cpu")
    assert found.fitted == 19
    found.probe.save(tmp_path / "probe.safetensors")
    Probe.open(tmp_path / "probe.safetensors").check_fits(open_extractor(tiny_model, device="cpu"))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("r.csv", "file_name,rating\na.png,good\n", "line 2 has no number; it needs one of rating"),
        ("r.csv", "file_name,text\na.png,hello\n", "line 2 has no number"),
        ("r.csv", "rating\n3\n", "names no file"),
        ("r.csv", "file_name,rating\n../a.png,3\n", "not a path inside the folder"),
        ("r.csv", "file_name,rating\n", "has no rows"),
        ("r.jsonl", '{"image": "a.png", "score": true}\n', "line 1 has no number"),
        ("r.jsonl", '{"image": "a.png", "score": NaN}\n', "line 1 has no number"),
        ("r.txt", "a.png 3", r"is no table; give one of \.jsonl, \.csv, \.parquet"),
    ],
)
def test_what_is_no_table_of_ratings(name: str, text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=says):
        read_ratings(tmp_path / name)
