"""`unclip evaluate memorisation`: what it finds, writes, resumes, and refuses."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from tests.conftest import captioned_folder
from tests.interfaces.cli.test_cli import Capture, refused
from unclip.evaluation.memorisation import data
from unclip.interfaces.cli import main


@pytest.fixture(autouse=True)
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "PLANTED", 40)
    captioned_folder(Path("train"), 40)
    captioned_folder(Path("all"), 60)
    Path("other").mkdir()
    for index in range(40, 60):  # scenes that are not in train
        for ending in (".png", ".txt"):
            shutil.copy(f"all/{index:03}{ending}", "other")


def numbers(file: str) -> dict[tuple[str, str, str], float]:
    report = json.loads(Path(file).read_text())
    return {
        (one["metric"], one["of"], one["under"]["extractor"]): one["value"]
        for one in report["numbers"]
    }


def test_a_folder_of_copies(tiny_model: Path, capsys: Capture) -> None:
    """Three of four are training images: as they are, mirrored, and cut."""
    Path("made").mkdir()
    image = Image.open("train/003.png")
    image.save("made/a.png")
    ImageOps.mirror(image).save("made/b.png")
    image.crop((2, 3, 30, 31)).resize((32, 32), Image.Resampling.BICUBIC).save("made/c.png")
    shutil.copy("other/041.png", "made/d.png")
    words = [
        "evaluate", "memorisation", "--model", str(tiny_model), "--data", "train", "--held-out",
        "other", "--images", "made", "-o", "found.json", "--sheet", "near.png", "--report",
        "found.html",
    ]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr()
    assert "written to near.png" in said.out
    found = numbers("found.json")
    assert found["copies", "generated", "pixels"] == 0.75
    assert found["false alarms", "unseen", "pixels"] <= 0.1
    for kind in ("exact", "flipped", "cropped", "noised"):
        assert found["found", f"planted, {kind}", "pixels"] >= 0.9
    assert ("copies", "generated", "clip") in found
    assert 0 <= found["membership AUC", "training / unseen", "decoder's loss"] <= 1
    with Image.open("near.png") as sheet:
        assert sheet.width > 3 * 96
    report = json.loads(Path("found.json").read_text())
    assert (report["training_images"], report["unseen_images"], report["images"]) == (40, 20, 4)
    assert "<script" not in Path("found.html").read_text()


def test_images_of_the_model_are_made_once(tiny_model: Path, capsys: Capture) -> None:
    words = [
        "evaluate", "memorisation", "--model", str(tiny_model), "--data", "train", "-n", "3",
        "--steps", "fast", "--batch-size", "1", "-o", "found.json",
    ]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr()
    assert "nothing was held out of training" in said.err
    assert not any(metric == "membership AUC" for metric, _, _ in numbers("found.json"))
    first = numbers("found.json")
    made = sorted(Path("out/generated").rglob("*.png"))
    assert len(made) == 3
    made[0].unlink()  # as if it had been killed
    assert main(words) == 0
    assert "2 of 3 images are there" in capsys.readouterr().err
    assert numbers("found.json") == first


def test_bad_requests(tiny_model: Path, capsys: Capture) -> None:
    Path("empty").mkdir()
    captioned_folder(Path("few"), 5)
    for words, says in (
        ("", "does not say what it was trained on"),
        ("--data none", "does not exist"),
        ("--data few", "there are 5 images"),
        ("--data train --held-out few", "there are 5 images"),
        ("--data train --images empty", "there is no image in empty"),
        ("--data train --images none", "none does not exist"),
        ("--data train --features none", "there is no extractor 'none'"),
        ("--data train --sheet a.jpg", "does not end in .png"),
        ("--data train --report a.txt", "does not end in .html"),
        ("--data train -n 0", "-n/--n: the value is 0"),
        ("--data train --unseen-images 3", "the value is 3"),
        ("--data train --size 48", "16, 32 pixels"),
        ("--data train --template x", "needs {}"),
    ):
        command = ["evaluate", "memorisation", "--model", str(tiny_model), *words.split()]
        assert says in refused(command, capsys)
