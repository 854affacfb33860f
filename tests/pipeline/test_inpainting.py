"""Inpainting: what is kept, which square is computed, and everything that is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unclip import Pipeline
from unclip.data.transforms import to_tensor
from unclip.pipeline.inpainting import Hole, candidates_for, plan_hole
from unclip.pipeline.settings import Settings
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderStage
from unclip.storage.folder import ModelFolder

FAST: dict[str, Any] = {
    "prior_num_inference_steps": 1,
    "decoder_num_inference_steps": 2,
    "super_res_num_inference_steps": 1,
    "resamples": 2,
}
PROMPT = "a red circle"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def widened(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with mask channels, whose weights are random."""
    path = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "mask"))
    folder = ModelFolder(path)
    stage = DecoderStage.load(folder, FrozenCLIP.load(folder))
    stage.widen()
    torch.manual_seed(0)
    with torch.no_grad():
        stage.network.decoder.conv_in.weight[:, 3:].normal_(std=0.3)
    stage.save(folder)
    return path


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def white(image: Image.Image, *boxes: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", image.size)
    for box in boxes:
        mask.paste(255, box)
    return mask


# ---- what is kept ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((32, 32), (8, 8, 20, 24)),  # the model's own size
        ((16, 16), (0, 0, 5, 9)),  # the decoder's
        ((45, 23), (30, 3, 45, 20)),  # not square, at the edge
        ((150, 100), (10, 10, 100, 90)),  # a square that is reduced, and reaches outside
        ((9, 40), (2, 5, 3, 6)),  # a single pixel
        ((1, 10_000), (0, 5000, 1, 5004)),
    ],
)
def test_all_but_the_mask_is_kept_exactly(
    pipe: Pipeline, size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    image = picture(*size)
    (made,) = pipe.inpaint(image, PROMPT, white(image, box), **FAST).images
    assert (made.size, made.mode) == (size, "RGB")
    before, after = np.asarray(image), np.asarray(made)
    x0, y0, x1, y1 = box
    changed = np.zeros(before.shape[:2], bool)
    changed[y0:y1, x0:x1] = True
    assert (after[~changed] == before[~changed]).all()
    assert (after[changed] != before[changed]).any()
    (boxed,) = pipe.inpaint(image, PROMPT, boxes=[box], **FAST).images
    assert (np.asarray(boxed) == after).all()


def test_at_the_decoders_size(pipe: Pipeline) -> None:
    image = picture(16, 16)
    made = pipe.inpaint(
        image, PROMPT, boxes=[(4, 4, 12, 12)], output_type="tensor", **FAST | {"size": 16}
    )
    kept = torch.ones(16, 16, dtype=torch.bool)
    kept[4:12, 4:12] = False
    assert torch.equal(made.images[0][:, kept], to_tensor(image)[:, kept])
    assert not torch.equal(made.images[0], to_tensor(image))


def test_what_was_under_the_mask_does_not_matter(pipe: Pipeline) -> None:
    image = picture(45, 23)
    other = image.copy()
    other.paste((255, 0, 255), (5, 5, 15, 15))
    a, b = (
        pipe.inpaint(one, PROMPT, boxes=[(5, 5, 15, 15)], output_type="tensor", **FAST).images
        for one in (image, other)
    )
    assert torch.equal(a, b)


def test_seeds_alone_and_in_a_batch(pipe: Pipeline) -> None:
    image = picture(20, 30)
    asked: dict[str, Any] = {"boxes": [(3, 3, 15, 15)], "output_type": "tensor", **FAST}
    made = pipe.inpaint(image, PROMPT, None, 2, seed=5, **asked)
    assert made.seeds == [5, 6]
    assert made.prompts == [PROMPT] * 2
    assert torch.equal(pipe.inpaint(image, PROMPT, seed=6, **asked).images, made.images[1:])
    together = pipe.inpaint(image, PROMPT, None, 2, seed=5, batch_size=2, **asked).images
    torch.testing.assert_close(together, made.images, atol=1e-4, rtol=1e-4)
    assert not torch.equal(made.images[0], made.images[1])


def test_a_mask_of_everything_is_a_new_image(pipe: Pipeline) -> None:
    image = picture(32, 32)
    asked = FAST | {"resamples": 1, "output_type": "tensor"}
    made = pipe.inpaint(image, PROMPT, white(image, (0, 0, 32, 32)), seed=3, **asked).images
    assert torch.equal(made, pipe(PROMPT, seed=3, **asked).images)


# ---- mask channels --------------------------------------------------------------------------


def test_mask_channels_are_used_and_saved(widened: Path, tmp_path: Path) -> None:
    pipe = Pipeline.from_pretrained(widened, dtype="fp32", device="cpu")
    pipe.save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["_decoder"]["inpainting"] is True
    again = Pipeline.from_pretrained(tmp_path / "saved", dtype="fp32", device="cpu")
    image, plain = picture(16, 16), {**FAST, "size": 16, "output_type": "tensor"}
    del plain["resamples"]
    a, b = (p.inpaint(image, PROMPT, boxes=[(4, 4, 12, 12)], **plain).images for p in (pipe, again))
    assert torch.equal(a, b)
    assert torch.equal(pipe(PROMPT, **plain).images, again(PROMPT, **plain).images)


def test_steps_are_counted(pipe: Pipeline, widened: Path) -> None:
    image, steps = picture(16, 16), []
    asked = {key: value for key, value in FAST.items() if key != "resamples"}
    for model, resamples in (
        (pipe, 5),
        (Pipeline.from_pretrained(widened, dtype="fp32", device="cpu"), 1),
    ):
        steps.clear()
        pictures = model.inpaint(
            image, PROMPT, boxes=[(4, 4, 12, 12)], **asked,
            callback_on_step_end=lambda _, i, t, state: steps.append((state["stage"], i)),
        )  # fmt: skip
        assert len(steps) == model.inpainting_steps(Settings().with_values(asked))
        decoder = [i for stage, i in steps if stage == "decoder"]
        assert decoder == list(range(2 * resamples))
        assert len(pictures.images) == 1


# ---- candidates -----------------------------------------------------------------------------


def test_of_candidates_that_closest_to_the_caption_is_kept(pipe: Pipeline) -> None:
    image, asked = picture(16, 16), {**FAST, "size": 16, "output_type": "tensor"}
    seen: list[Tensor] = []
    steps: list[int] = []

    def watch(pipe: Pipeline, step: int, t: float, state: dict[str, Any]) -> None:
        steps.append(state["images"])
        if state["stage"] == "decoder":
            seen.append(state["x0"])

    box, settings = (4, 4, 12, 12), Settings().with_values({
        key: value for key, value in asked.items() if key != "output_type"
    }).with_values({"inpainting_candidates": 3})  # fmt: skip
    made = pipe.inpaint(
        image, PROMPT, None, 2, boxes=[box], settings=settings, output_type="tensor",
        callback_on_step_end=watch, batch_size=6,
    ).images  # fmt: skip
    assert sum(steps) == 2 * pipe.inpainting_steps(settings, PROMPT)
    painted = seen[-1].clamp(-1, 1)
    assert len(painted) == 6
    likeness = torch.nn.functional.cosine_similarity(
        pipe.clip.image(painted), pipe.clip.text([PROMPT]).z_t
    ).view(2, 3)
    assert likeness.max(1).values.gt(likeness.min(1).values).all()
    expected = painted.view(2, 3, 3, 16, 16)[[0, 1], likeness.argmax(1)]
    inside = (..., slice(4, 12), slice(4, 12))
    torch.testing.assert_close(made[inside], expected[inside], atol=1e-5, rtol=0)
    known = to_tensor(image).expand_as(made).clone()
    known[inside] = made[inside]
    assert torch.equal(made, known)


def test_how_many_candidates(pipe: Pipeline, tiny_copy: Path) -> None:
    assert candidates_for(pipe, Settings(), PROMPT) == 1
    folder = ModelFolder(tiny_copy)
    folder.update_index({"_defaults": {"inpainting_candidates": 2}})
    model = Pipeline.from_pretrained(tiny_copy, dtype="fp32", device="cpu")
    assert candidates_for(model, Settings(), PROMPT) == 2
    assert candidates_for(model, Settings(inpainting_candidates=3), PROMPT) == 3
    assert candidates_for(model, Settings(), " ") == 1  # nothing is close to no caption
    image, asked = picture(16, 16), {**FAST, "size": 16, "output_type": "tensor"}
    boxes = [(4, 4, 12, 12)]
    one, two, chosen = (
        model.inpaint(image, PROMPT, boxes=boxes, **asked, **more).images
        for more in ({"inpainting_candidates": 1}, {"inpainting_candidates": 2}, {})
    )
    assert torch.equal(two, chosen)
    assert torch.equal(one, pipe.inpaint(image, PROMPT, boxes=boxes, **asked).images)
    latents = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    given = model.inpaint(image, PROMPT, boxes=boxes, decoder_latents=latents, **asked).images
    assert not torch.equal(given, one)
    with pytest.raises(ValueError, match="x_T is given for each image"):
        model.inpaint(
            image, PROMPT, boxes=boxes, decoder_latents=latents, inpainting_candidates=2, **asked
        )
    model.clip.image_encoder = None
    assert torch.equal(model.inpaint(image, PROMPT, boxes=boxes, **asked).images, one)
    with pytest.raises(ValueError, match="no image_encoder to choose among candidates"):
        model.inpaint(image, PROMPT, boxes=boxes, inpainting_candidates=2, **asked)


# ---- the square -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "box", "expected"),  # expected: left, top, side
    [
        ((32, 32), (8, 8, 20, 24), (0, 0, 32)),
        ((400, 300), (100, 100, 104, 104), (86, 86, 32)),  # the model's size, around the middle
        ((400, 300), (0, 290, 20, 300), (0, 260, 40)),  # twice the box, moved inside
        ((100, 40), (10, 0, 50, 40), (0, -20, 80)),  # reaches outside above and below
        ((100, 40), (0, 0, 100, 40), (0, -30, 100)),
        ((20, 16), (0, 0, 2, 2), (0, 0, 16)),  # an image smaller than the model's
    ],
)
def test_which_square_is_computed(size: tuple[int, int], box: Any, expected: Any) -> None:
    hole = plan_hole(Image.new("RGB", size), None, [box], 32)
    assert (hole.left, hole.top, hole.side) == expected
    assert int(hole.mask.sum()) == (box[2] - box[0]) * (box[3] - box[1])


def test_what_a_stage_knows(pipe: Pipeline) -> None:
    """Nothing of what is under the mask, nor of what is outside the image."""
    image = Image.new("RGB", (40, 20), (255, 255, 255))
    image.paste((0, 0, 0), (10, 5, 25, 20))
    hole = plan_hole(image, None, [(10, 5, 25, 20)], 32)
    assert (hole.left, hole.top, hole.side) == (2, -5, 30)
    for size in (15, 16, 30, 47):
        known = hole.known(size, CPU)
        assert known.unknown.shape == (1, 1, size, size)
        seen = known.x0[(~known.unknown).expand_as(known.x0)]
        assert len(seen)
        torch.testing.assert_close(seen, torch.ones_like(seen))
        scale = size / 30
        assert known.unknown[0, 0, : int(5 * scale)].all()
        assert known.unknown[0, 0, round(17 * scale), round(15 * scale)]
        assert not known.unknown[0, 0, round(17 * scale), 0]
    assert torch.equal(hole.known(30, CPU).x0[0, :, 5:25, :8], torch.ones(3, 20, 8))


def test_pixels_known_in_part_are_mixed_by_area() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, 3:] = True
    hole = Hole(torch.ones(3, 8, 8), mask, 0, 0, 8)
    mixed: Tensor = hole.blended(-torch.ones(1, 3, 8, 8))
    assert torch.equal(mixed[0, 0, 0], torch.tensor([1.0] * 3 + [-1.0] * 5))
    mixed = hole.blended(-torch.ones(1, 3, 4, 4))[0, 0, 1]
    assert mixed[0] > 0.7
    assert -0.5 < mixed[1] < 0.5
    assert mixed[3] == -1
    assert hole.known(4, CPU).unknown[0, 0, 1].tolist() == [False, True, True, True]


# ---- what is refused ------------------------------------------------------------------------


def test_masks_of_every_mode(pipe: Pipeline) -> None:
    image, grey = picture(32, 32), Image.new("L", (32, 32), 127)
    grey.paste(128, (4, 4, 10, 10))  # the threshold
    expected = plan_hole(image, None, [(4, 4, 10, 10)], 32).mask
    for mode in ("L", "RGB", "P", "1", "I;16"):
        mask = grey.point(lambda value: 255 * (value >= 128)) if mode in "1P" else grey
        if mode == "I;16":
            mask = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        else:
            mask = mask.convert(mode)
        assert torch.equal(plan_hole(image, mask, [], 32).mask, expected), mode


def test_bad_requests(pipe: Pipeline) -> None:
    image = picture(40, 24)
    hole = white(image, (5, 5, 15, 15))
    long = picture(10_000, 1)
    for arguments, says in (
        ({"mask": None}, "nothing says what to repaint"),
        ({"mask": white(picture(24, 40), (1, 1, 5, 5))}, "the mask has 24 × 40 pixels and the"),
        ({"mask": white(image)}, "the mask is black everywhere"),
        ({"mask": 3}, "a mask must be a Pillow image, a path, an array or a tensor, not int"),
        ({"boxes": [(30, 10, 50, 20)]}, "30,10,50,20 reaches outside the image, which has 40 × 24"),
        ({"boxes": [(-1, 10, 5, 20)]}, "reaches outside"),
        ({"boxes": [(10, 10, 5, 20)]}, "10,10,5,20 holds no pixel"),
        ({"boxes": [(10, 10, 20, 10)]}, "holds no pixel"),
        ({"boxes": [(1, 2, 3)]}, "four whole numbers x0,y0,x1,y1, not .1, 2, 3.$"),
        ({"boxes": [(1, 2, 3, 4.5)]}, "four whole numbers"),
        ({"image": "x.png"}, "x.png does not exist"),
        ({"num_images_per_prompt": 0}, "0 images were asked for"),
        ({"resamples": 0}, "resamples is 0"),
        ({"size": 17}, "makes images of 16, 32 pixels"),
        ({"image": long, "mask": None, "boxes": [(0, 0, 500, 1)]}, "needs a square of 1000"),
    ):
        asked: dict[str, Any] = {"image": image, "prompt": PROMPT, "mask": hole, **arguments}
        with pytest.raises(ValueError, match=says):
            pipe.inpaint(**asked)


def test_a_model_without_a_prior(tiny_copy: Path) -> None:
    index = tiny_copy / "model_index.json"
    kind = {"_class_name": "UnCLIPImageVariationPipeline"}
    index.write_text(json.dumps(json.loads(index.read_text()) | kind))
    pipe = Pipeline.from_pretrained(tiny_copy, dtype="fp32", device="cpu")
    with pytest.raises(ValueError, match="this model has no prior"):
        pipe.inpaint(picture(16, 16), PROMPT, boxes=[(4, 4, 8, 8)])
