"""`unclip data`: data of every kind is looked at before anything is trained on it."""

from pathlib import Path

import pytest
from PIL import Image

from tests.data.test_folder import put
from tests.data.test_webdataset import members, shard
from tests.interfaces.cli.test_cli import Capture, refused
from unclip.data import shard_index
from unclip.interfaces.cli import main


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(8):
        file = put(tmp_path / "photos" / f"{number}.png", 40 + 60 * (number % 2), seed=number % 7)
        file.with_suffix(".txt").write_text(f"a red cat\nnumber {number} of all the cats\n")
    put(tmp_path / "photos" / "alone.png")
    return tmp_path / "photos"


def test_inspect(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    sheet = tmp_path / "sheet.png"
    words = ["data", "inspect", str(photos), "--size", "32", "--columns", "3", "-o", str(sheet)]
    assert main([*words, "--held-out", "0.3", "--decode"]) == 0
    said = capsys.readouterr().out
    for line in (
        "8 of 9 images usable, 16 captions",
        "skipped: 1 image without a caption (alone.png)",
        "held out: ",
        "sizes: shorter side 32 px in the middle, 32 to 32",
        "8 of 8 images are oblong",
        "captions: the 16 have 4 words in the middle",
        "9 are different",
        "most often: ",
        "7 repeat another image's, most often 'a red cat' 8 times",
        "duplicates: no two files are the same",
        f"8 images: {sheet}",
    ):
        assert line in said
    with Image.open(sheet) as image:
        assert image.width == 3 * (160 + 8) + 8
    (photos / "again.png").write_bytes((photos / "2.png").read_bytes())
    (photos / "again.txt").write_text("a cat")
    assert main([*words[:3], "--size", "32", "--decode"]) == 0
    assert "duplicates: 1 file (again.png = 2.png)" in capsys.readouterr().out


def test_inspect_of_drawn_and_mixed_data(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    mixture = f"mix:3 {photos} + emoji:shapes"
    words = ["--size", "32", "--rows", "1", "-o", str(tmp_path / "s.png")]
    assert main(["data", "inspect", mixture, *words]) == 0
    said = capsys.readouterr().out
    assert "75 %: " in said
    assert "25 %: built-in world" in said
    assert "captions: the first 1,000 have" in said
    assert "sizes" not in said
    assert main(["data", "inspect", "emoji:shapes", "--size", "32"]) == 0
    assert "scenes without end" in capsys.readouterr().out


def test_index(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(3):
        shard(tmp_path / "s" / f"{number}.tar", members(range(2 * number, 2 * number + 2)))
    assert main(["data", "index", f"wds:{tmp_path}/s", "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert "6 of 6 images usable, 12 captions" in said
    assert "3 shards indexed" in said
    assert len(list((tmp_path / "s" / shard_index.FOLDER).iterdir())) == 3


def test_what_is_asked_wrongly_is_one_sentence(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "--help"]) == 0
    assert "inspect|index|emoji" in capsys.readouterr().out
    assert "did you mean 'inspect'?" in refused(["data", "inspct", "x"], capsys)
    assert "nowhere does not exist" in refused(["data", "inspect", "nowhere"], capsys)
    assert "does not end in .png" in refused(["data", "inspect", "emoji", "-o", "a.jpg"], capsys)
    assert "needs no index" in refused(["data", "index", "photos"], capsys)
    assert "--held-out" in refused(["data", "inspect", "emoji", "--held-out", "1"], capsys)
