"""Generated images are made once, whatever stops the work, and belong to one way of making them."""

import json
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from unclip.checks import Notice
from unclip.evaluation import generated
from unclip.evaluation.generated import (
    ABOUT,
    Generated,
    Share,
    Wanted,
    fingerprint,
    from_captions,
    made_with,
    wanted,
)
from unclip.outputs.images import read_info, save_png
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.pixels import to_signed, to_uint8
from unclip.storage.folder import ModelFolder

IMAGES = wanted([f"caption {k}" for k in range(5)], seed=3)


def grey(images: Sequence[Wanted]) -> Tensor:
    """Images that say their seed."""
    seeds = torch.tensor([one.seed for one in images], dtype=torch.uint8)
    return to_signed(seeds.view(-1, 1, 1, 1).expand(-1, 3, 4, 4))


def counted(calls: list[int]) -> Callable[[Sequence[Wanted]], Tensor]:
    def draw(images: Sequence[Wanted]) -> Tensor:
        calls.append(len(images))
        return grey(images)

    return draw


def test_images_are_made_once_and_read_in_order(tmp_path: Path) -> None:
    made, calls, told = Generated(tmp_path, {"steps": 2}), [], []
    made.make(IMAGES, counted(calls), 2, told.append, notes={"model": "mine"})
    assert calls == [2, 2, 1]
    assert sum(told) == 5
    read = list(made.read(IMAGES[::-1], 3))
    assert [len(batch) for batch in read] == [3, 2]
    assert [int(one[0, 0, 0]) for one in to_uint8(torch.cat(read))] == [7, 6, 5, 4, 3]
    info = read_info(made.file(IMAGES[1]))
    assert (info["prompt"], info["seed"], info["model"]) == ("caption 1", 4, "mine")

    told.clear()
    more = wanted([f"caption {k}" for k in range(7)], seed=3)  # the first five are there
    Generated(tmp_path, {"steps": 2}).make(more, counted(calls), 8, told.append)
    assert calls == [2, 2, 1, 2]
    assert told == [5, 2]
    assert len(Generated(tmp_path, {"steps": 3}).missing(IMAGES)) == 5  # made in another way


def test_what_was_made_before_a_kill_stays(tmp_path: Path) -> None:
    def killed(images: Sequence[Wanted]) -> Tensor:
        if images[0].seed > 4:
            raise KeyboardInterrupt
        return grey(images)

    made = Generated(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        made.make(IMAGES, killed, 2)
    assert [one.seed for one in made.missing(IMAGES)] == [5, 6, 7]


def test_equal_images_are_one_and_others_are_not(tmp_path: Path) -> None:
    calls: list[int] = []
    same = [Wanted("a", 1), Wanted("a", 1), Wanted("a", 2), Wanted("a", 1, of="an image")]
    made = Generated(tmp_path, {})
    made.make(same, counted(calls), 8)
    assert calls == [3]
    assert len(next(made.read(same))) == 4


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    """The first waits for what the other has not made yet."""
    calls: dict[int, list[int]] = {0: [], 1: []}
    told: list[int] = []

    def work(rank: int) -> None:
        made = Generated(tmp_path, {})
        made.make(IMAGES, counted(calls[rank]), 8, share=Share(rank, 2))
        if not rank:
            made.wait(IMAGES, told.append)

    first = threading.Thread(target=work, args=(0,))
    first.start()
    work(1)
    first.join(timeout=60)
    assert not first.is_alive()
    assert calls == {0: [3], 1: [2]}
    assert sum(told) == 5
    assert not Generated(tmp_path, {}).missing(IMAGES)


def test_what_is_damaged_or_wrong_is_said(tmp_path: Path) -> None:
    made = Generated(tmp_path, {})
    with pytest.raises(ValueError, match=r"\.png.*remove it, and it is made again"):
        made.pixels(IMAGES[0])
    with pytest.raises(ValueError, match="1 image was made where 2 should"):
        made.make(IMAGES, lambda images: grey(images[:1]), 2)
    made.make(IMAGES, grey, 8)
    made.file(IMAGES[0]).write_bytes(made.file(IMAGES[0]).read_bytes()[:50])
    with pytest.raises(ValueError, match="remove it, and it is made again"):
        made.pixels(IMAGES[0])
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write"):
        Generated(tmp_path / "file", {}).make(IMAGES, grey, 8)


def test_a_model_and_its_settings_name_the_folder(tiny_copy: Path, tmp_path: Path) -> None:
    model, pipe = ModelFolder(tiny_copy), Pipeline.from_pretrained(tiny_copy, dtype="fp32")
    fast = made_with(pipe, model, Settings(steps="fast"))
    decoder = pipe.sampling("decoder", Settings(steps="fast"))
    said = Settings(steps="fast", decoder_num_inference_steps=decoder.steps)
    assert made_with(pipe, model, said) == fast  # said or left out, they are the same steps
    others = [
        made_with(pipe, model, Settings(steps="fast", decoder_guidance_scale=2.5)),
        made_with(pipe, model, Settings(steps="fast", size=16)),
        made_with(pipe, model, Settings(steps="fast"), z_i="of the image"),
    ]
    folders = [Generated(tmp_path, one).folder for one in (fast, *others)]
    assert len(set(folders)) == 4

    settings = Settings(steps="fast", size=16)
    made = Generated(tmp_path, made_with(pipe, model, settings))
    steps: list[int] = []
    made.make(IMAGES[:2], from_captions(pipe, settings, steps.append), 2)
    expected = pipe(IMAGES[1].caption, seed=IMAGES[1].seed, output_type="tensor", settings=settings)
    found = next(made.read(IMAGES[1:2]))
    assert (found - expected.images).abs().max() <= 1.01 / 127.5  # rounded to 8 bits
    assert sum(steps) == 2 * pipe.evaluations(settings)


def test_the_fingerprint_is_of_every_component(tiny_copy: Path) -> None:
    before = fingerprint(ModelFolder(tiny_copy))
    assert before == fingerprint(ModelFolder(tiny_copy))
    config = tiny_copy / "super_res_scheduler" / "scheduler_config.json"
    assert config.is_file()
    config.write_text(config.read_text() + " ")
    assert fingerprint(ModelFolder(tiny_copy)) != before


def test_another_image_in_the_place_of_a_kept_one_is_refused(tmp_path: Path) -> None:
    made = Generated(tmp_path, {"interval": (1.0, math.inf)})
    made.make(IMAGES, grey, 8)
    assert json.loads((made.folder / ABOUT).read_text(), parse_constant=_none) == {
        "interval": [1.0, "inf"]
    }
    kept = made.file(IMAGES[0]).read_bytes()
    made.file(IMAGES[0]).write_bytes(made.file(IMAGES[1]).read_bytes())
    with pytest.raises(ValueError, match="by its notes another image; remove it"):
        list(made.read(IMAGES))
    made.file(IMAGES[0]).write_bytes(kept)
    small = Image.new("RGB", (2, 3))
    save_png(small, made.file(IMAGES[4]), IMAGES[4].notes)
    with pytest.raises(ValueError, match=r"has 2 × 3 pixels, and \w+\.png beside it 4 × 4; remove"):
        list(made.read(IMAGES, 2))
    made.file(IMAGES[4]).unlink()
    made.file(IMAGES[4]).mkdir()
    with pytest.raises(ValueError, match="is not a file, but an image is kept there"):
        made.missing(IMAGES)


def _none(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def test_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the second of two processes that somebody's environment speaks of."""
    monkeypatch.setattr(generated, "_EVERY", 0.0)
    monkeypatch.setattr(generated, "_QUIET", -1.0)
    monkeypatch.setattr(generated, "PATIENCE", 0.01)
    monkeypatch.setattr(generated, "_BATCHES", 0)
    made = Generated(tmp_path, {})
    made.make(IMAGES, grey, 8, share=Share(0, 2))
    with (
        pytest.warns(Notice, match="waiting for 2 images that other processes make"),
        pytest.raises(ValueError, match="2 images that other processes make did not come"),
    ):
        made.wait(IMAGES)
