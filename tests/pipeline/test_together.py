"""Images of different requests that are computed at once: each is its request's alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.pipeline.inpainting import plan_hole
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.pipeline.together import Planned, Wanted, draw_together, glimpse

FEW = Settings(
    prior_num_inference_steps=2, decoder_num_inference_steps=3, super_res_num_inference_steps=2
)


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model, device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))


def _ignore(*step: Any) -> None:
    pass


def _drawn(pipe: Pipeline, *wanted: Wanted) -> list[Any]:
    rows = [Planned(pipe, one) for one in wanted]
    assert len({row.key for row in rows}) == 1
    return [np.asarray(image).astype(int) for image in draw_together(pipe, rows, _ignore)]


def _near(images: list[Any], others: list[Any]) -> None:
    for one, other in zip(images, others, strict=True):
        assert np.abs(one - other).max() <= 1  # a level: sums in another order


def test_an_image_alone_is_the_pipelines_bit_for_bit(pipe: Pipeline, picture: Image.Image) -> None:
    [drawn] = _drawn(pipe, Wanted(FEW, 5, "a red circle"))
    assert (drawn == np.asarray(pipe("a red circle", seed=5, settings=FEW).images[0])).all()
    [varied] = _drawn(pipe, Wanted(FEW, 6, image=picture))
    assert (varied == np.asarray(pipe.vary(picture, seed=6, settings=FEW).images[0])).all()
    mask = Image.new("L", picture.size)
    mask.paste(255, (8, 8, 24, 24))
    hole = plan_hole(picture, mask, (), pipe.sizes[-1])
    [painted] = _drawn(pipe, Wanted(FEW, 7, "a blue star", hole=hole))
    alone = pipe.inpaint(picture, "a blue star", mask, seed=7, settings=FEW).images[0]
    assert (painted == np.asarray(alone)).all()


def test_captions_scales_negatives_and_variations_are_computed_at_once(
    pipe: Pipeline, picture: Image.Image
) -> None:
    rows = [
        Wanted(FEW, 1, "a red circle"),
        Wanted(FEW.with_values({"decoder_guidance_scale": 2.5}), 2, "a star"),
        Wanted(FEW.with_values({"negative_prompt": "a square"}), 3, "a star and a ring"),
        Wanted(FEW.with_values({"prior_guidance_scale": 1.0}), 4, "a blue heart"),
        Wanted(FEW, 5, image=picture),
        Wanted(FEW, 6, z_i=pipe.embed_images(picture)[0]),
    ]
    _near(_drawn(pipe, *rows), [_drawn(pipe, row)[0] for row in rows])


@pytest.mark.parametrize("asked", [{}, {"inpainting_candidates": 3}, {"steps": "turbo"}])
def test_edits_with_other_masks_are_computed_at_once(
    asked: dict[str, Any], pipe: Pipeline, picture: Image.Image
) -> None:
    settings, boxes = FEW.with_values(asked), ((4, 4, 20, 20), (10, 2, 38, 30))
    holes = [plan_hole(picture, None, [box], 32) for box in boxes]
    rows = [Wanted(settings, k, "a ring", hole=hole) for k, hole in enumerate(holes)]
    each = [_drawn(pipe, row)[0] for row in rows]
    _near(_drawn(pipe, *rows), each)
    for k, box in enumerate(boxes):
        alone = pipe.inpaint(picture, "a ring", boxes=[box], seed=k, settings=settings).images[0]
        assert (each[k] == np.asarray(alone)).all()
    other = Wanted(settings.with_values({"inpainting_candidates": 2}), 0, "a ring", hole=holes[0])
    assert Planned(pipe, other).key != Planned(pipe, rows[0]).key


def test_what_does_not_fit_has_another_key(pipe: Pipeline, picture: Image.Image) -> None:
    base = Planned(pipe, Wanted(FEW)).key
    hole = plan_hole(picture, None, [(4, 4, 20, 20)], 32)
    for wanted in (
        Wanted(FEW.with_values({"decoder_num_inference_steps": 4})),
        Wanted(FEW.with_values({"size": 16})),
        Wanted(FEW.with_values({"sampler": "ddim"})),
        Wanted(FEW.with_values({"decoder_guidance_scale": 1.0})),
        Wanted(FEW, hole=hole),
        Wanted(FEW, start=torch.zeros(3, 16, 16)),
    ):
        assert Planned(pipe, wanted).key != base


def test_a_glimpse_has_the_size_of_the_image_and_watching_sees_every_step(
    pipe: Pipeline, picture: Image.Image
) -> None:
    row, seen = Planned(pipe, Wanted(FEW, 1, image=picture)), []
    glimpses = []

    def watch(stage: str, step: int, x0: torch.Tensor) -> None:
        seen.append((stage, step))
        if stage == "decoder":
            glimpses.append(glimpse(pipe, row, x0))

    draw_together(pipe, [row], watch)
    assert row.steps == len(seen) == 5
    assert row.decoding == len(glimpses) == 3
    assert {one.size for one in glimpses} == {(32, 32)}


def test_a_watch_that_raises_ends_the_work_and_nothing_else(pipe: Pipeline) -> None:
    def watch(stage: str, step: int, x0: torch.Tensor) -> None:
        raise KeyError(stage)

    row = Planned(pipe, Wanted(FEW, 5, "a red circle"))
    with pytest.raises(KeyError, match="prior"):
        draw_together(pipe, [row], watch)
    assert (
        np.asarray(draw_together(pipe, [row], _ignore)[0])
        == np.asarray(pipe("a red circle", seed=5, settings=FEW).images[0])
    ).all()
