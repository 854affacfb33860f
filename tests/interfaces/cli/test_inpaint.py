"""`unclip inpaint`: files, notes, and mistakes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.interfaces.cli.test_cli import Capture, refused
from unclip.interfaces.cli import main
from unclip.outputs.images import read_info

FAST = ["--decoder-steps", "2", "--super-res-steps", "1", "--resamples", "2"]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "my picture.png")
    mask = Image.new("1", (40, 24))
    mask.paste(1, (20, 5, 35, 20))
    mask.save(tmp_path / "mask.png")
    return str(tmp_path / "my picture.png")


def test_a_mask_and_a_box_are_the_same(tiny_model: Path, picture: str, tmp_path: Path) -> None:
    out, sheet = tmp_path / "out", tmp_path / "sheet.png"
    more = ["--model", str(tiny_model), "--precision", "fp32", *FAST]
    mask, prompt = str(tmp_path / "mask.png"), "a red circle"
    words = ["inpaint", picture, mask, prompt, "-n", "2", "--seed", "4", "-o", str(out)]
    assert main([*words, "--sheet", str(sheet), *more]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["inpaint-000.png", "inpaint-001.png"]
    assert sheet.exists()
    notes = read_info(out / "inpaint-000.png")
    assert notes["command"][:4] == words[:4]
    assert notes["settings"]["resamples"] == 2
    one = tmp_path / "one.png"
    words = ["inpaint", picture, prompt, "--seed", "5", "-o", str(one)]
    boxes = ["--box", "20,5,30,20", "--box", "28, 5, 35, 20"]
    assert main([*words, *boxes, *more]) == 0
    before, second, boxed = (
        np.asarray(Image.open(path)) for path in (picture, out / "inpaint-001.png", one)
    )
    assert (second == boxed).all()
    changed = (before != second).any(axis=2)
    assert changed[5:20, 20:35].any()
    changed[5:20, 20:35] = False
    assert not changed.any()


def test_bad_requests(tiny_model: Path, picture: str, tmp_path: Path, capsys: Capture) -> None:
    out, mask = tmp_path / "out", str(tmp_path / "mask.png")
    Image.new("L", (40, 24)).save(tmp_path / "black.png")
    Image.new("L", (10, 10), 255).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    for words, says in (
        ([picture, "a star"], "nothing says what to repaint: give a mask, or --box"),
        ([picture], "1 word was given; give the image"),
        ([picture, mask, "a", "star"], "4 words were given"),
        ([picture, "none.png", "a star"], "none.png does not exist; the order is IMAGE [MASK]"),
        (["a star", picture, mask], "a star does not exist; the order is IMAGE [MASK] PROMPT"),
        ([picture, str(tmp_path / "text.png"), "a star"], "not an image"),
        ([picture, str(tmp_path / "black.png"), "a star"], "the mask is black everywhere"),
        ([picture, str(tmp_path / "small.png"), "a star"], "the mask has 10 × 10 pixels"),
        ([picture, "a star", "--box", "1,2,3"], "--box '1,2,3' is not x0,y0,x1,y1"),
        ([picture, "a star", "--box", "1,2,3,x"], "is not x0,y0,x1,y1"),
        ([picture, "a star", "--box", "30,2,90,9"], "reaches outside the image"),
        ([picture, "a star", "--box=-3,2,9,9"], "reaches outside the image"),
        ([picture, "a star", "--box", "9,2,3,9"], "holds no pixel"),
        ([picture, mask, "a star", "--resamples", "0"], "--resamples: the value is 0"),
        ([picture, mask, "a star", "-n", "0"], "0 images were asked for"),
    ):
        more = ["--model", str(tiny_model), "--precision", "fp32", "-o", str(out)]
        assert says in refused(["inpaint", *words, *more], capsys)
        assert not out.exists()
    assert "does not end in .png" in refused(
        ["inpaint", picture, mask, "a star", "-o", str(tmp_path / "b.gif")], capsys
    )
