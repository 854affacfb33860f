"""The README's commands do what they say: the judge looks at what the bundled model makes of them.

They are read from the README and run in their order, with fewer steps of inversion and, where
nothing later needs them larger, at the decoder's size. Each caption is one that nearly every seed
gets right; what is asked here leaves room for the slightly other images of other CPUs.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from tests.docs.commands import blocks, commands
from unclip.evaluation.judge.network import Detections, Judge, judge_images, load_judge
from unclip.interfaces.cli import main
from unclip.outputs.images import read_info
from unclip.pipeline.pipeline import Pipeline
from unclip.pixels import to_signed
from unclip.storage.assets import bundled

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ["--size", "32"]
MORE = {
    "blend": [*SMALL, "--invert-steps", "6"],
    "edit": [*SMALL, "--invert-steps", "15"],
    "inpaint": ["--resamples", "2"],
    "vary": SMALL,
    "decode": SMALL,
    "invert": ["--steps", "3"],
    "upscale": ["--super-res-steps", "2"],
}
BACKGROUNDS = {"at night": "night", "by the sea": "sea", "in a room": "room"}

pytestmark = pytest.mark.skipif(
    not (bundled("model").is_dir() and bundled("judge").is_dir()), reason="nothing is bundled yet"
)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


def _shell() -> str:
    """The README's commands that make images."""
    images, _, _ = README.partition("\n## Train")
    return "".join(body for kind, body in blocks(images) if kind in ("sh", "console"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the README's commands ran."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        opened = Pipeline.from_pretrained()  # once, not by every command
        patch.setattr(Pipeline, "from_pretrained", lambda *_, **__: opened)
        for program, *words in commands(_shell()):
            if program != "unclip" or words[0] == "info":
                continue
            words = [*words, *MORE.get(words[0], [])]
            if words[0] == "generate" and "-n" in words:  # the judge wants no sheets
                words = [*words, *SMALL, "--output", "out/several"]
            assert main(words) == 0, words
    return folder / "out"


def given(command: str, flag: str = "") -> str:
    """What the README's command gives as the flag, or as its caption."""
    (words,) = (words for _, *words in commands(_shell()) if words[0] == command)
    return words[words.index(flag) + 1] if flag else words[2]


def seen(judge: Judge, *images: Path | Image.Image) -> list[Detections]:
    """What the judge finds in images."""
    found = []
    for image in images:
        opened = image if isinstance(image, Image.Image) else Image.open(image)
        pixels = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
        found += judge_images(judge, to_signed(pixels[None]))
    return found


def shows(found: Detections, caption: str) -> bool:
    """Whether an image shows the caption's objects, no others, and its background."""
    things = re.findall(r"\ban? (\w+) (?!background)(\w+)", caption)
    wanted = [(name, colour) for colour, name in things]
    flat = re.findall(r"on an? (\w+) background", caption)
    kinds = [kind for words, kind in BACKGROUNDS.items() if words in caption]
    assert wanted, caption
    assert flat or kinds, caption
    behind = (found.background, list(found.background_colours))
    there = sorted((thing.name, thing.colour) for thing in found.objects)
    return there == sorted(wanted) and behind == (("flat", flat) if flat else (kinds[0], []))


def test_captions_are_shown(judge: Judge, made: Path) -> None:
    right: dict[str, list[bool]] = {}
    files = [*(made / "several").glob("*.png"), made / "star.png", made / "moon.png"]
    for file, found in zip(files, seen(judge, *files), strict=True):
        caption = read_info(file)["prompt"]
        right.setdefault(caption, []).append(shows(found, caption))
    assert len(right) == 5
    wrong = {caption: one for caption, one in right.items() if one.count(False) > len(one) // 4}
    assert not wrong


def test_variations_keep_object_and_background(judge: Judge, made: Path) -> None:
    files = [*(made / "variations").glob("*.png"), made / "decoded.png"]
    caption = read_info(made / "star.png")["prompt"]
    right = [shows(found, caption) for found in seen(judge, *files)]
    assert len(right) == 4
    assert sum(right) >= 3


def test_a_blend_goes_from_one_image_to_the_other(judge: Judge, made: Path) -> None:
    with Image.open(made / "blend.gif") as animation:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(animation)]
    assert len({frame.tobytes() for frame in frames}) == int(given("blend", "--frames"))
    first, *_, last = seen(judge, *frames)
    assert shows(first, read_info(made / "star.png")["prompt"])
    assert shows(last, read_info(made / "moon.png")["prompt"])


def test_an_edit_changes_what_was_asked_and_keeps_the_rest(judge: Judge, made: Path) -> None:
    before, after = seen(judge, made / "star.png", made / "edited.png")
    assert shows(before, given("edit", "--from"))
    assert shows(after, given("edit", "--to"))
    assert abs(before.objects[0].x - after.objects[0].x) < 0.15
    assert abs(before.objects[0].y - after.objects[0].y) < 0.15


def test_the_hole_holds_another_object(judge: Judge, made: Path) -> None:
    (found,) = seen(judge, made / "inpainted.png")
    assert shows(found, given("inpaint"))
    box = [int(x) / 128 for x in given("inpaint", "--box").split(",")]
    (thing,) = found.objects
    assert box[0] < thing.x < box[2]
    assert box[1] < thing.y < box[3]


def test_what_is_enlarged_is_larger_and_the_same(judge: Judge, made: Path) -> None:
    with Image.open(made / "star.png") as image, Image.open(made / "larger.png") as larger:
        assert larger.size == (4 * image.width, 4 * image.height)
    (found,) = seen(judge, made / "larger.png")
    assert shows(found, read_info(made / "star.png")["prompt"])
