"""Images as callers give them: every form of one image is the same image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unclip import Pipeline
from unclip.data.transforms import to_tensor
from unclip.pipeline.pictures import check_image, check_images

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
PICTURE = Image.fromarray(LEVELS)
TENSOR = torch.from_numpy(LEVELS).permute(2, 0, 1)  # (3, H, W)


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")


@pytest.mark.parametrize(
    "image",
    [
        PICTURE, LEVELS, LEVELS / 255, (LEVELS / 255).astype(np.float32), LEVELS[None], TENSOR,
        TENSOR / 255, TENSOR.double() / 255, (TENSOR / 255)[None], [PICTURE], (LEVELS,),
        [TENSOR / 255], [LEVELS[None]],
    ],
)  # fmt: skip
def test_every_form_of_an_image_is_that_image(image: Any) -> None:
    (read,) = check_images(image)
    assert np.array_equal(np.asarray(read), LEVELS)


def test_paths(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "x.png")
    for path in (tmp_path / "x.png", str(tmp_path / "x.png")):
        assert np.array_equal(np.asarray(check_image(path)), LEVELS)
    assert len(check_images([tmp_path / "x.png", PICTURE, TENSOR])) == 3


def test_grey_transparent_and_masks() -> None:
    grey = LEVELS[..., 0]
    for one in (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert np.array_equal(np.asarray(check_image(one)), grey)
    clear = np.concatenate([LEVELS, np.zeros_like(LEVELS[..., :1])], axis=-1)
    assert torch.equal(to_tensor(check_image(clear)), torch.ones(3, 6, 9))
    mask = grey > 100
    assert np.array_equal(np.asarray(check_image(mask)), mask * np.uint8(255))


def test_batches_are_several(pipe: Pipeline) -> None:
    batch = torch.stack([TENSOR / 255, 1 - TENSOR / 255])
    assert pipe.embed_images(batch).shape == (2, 64)
    several = [pipe.embed_images(one) for one in batch]
    assert torch.equal(pipe.embed_images(batch), torch.cat(several))
    with pytest.raises(ValueError, match="an image is a batch of 2; this call takes one"):
        check_image(batch)


def test_what_a_call_makes_another_takes(pipe: Pipeline) -> None:
    few = {"decoder_num_inference_steps": 1, "size": 16, "decoder_guidance_scale": 1.0}
    made = {kind: pipe.vary(PICTURE, output_type=kind, **few)[0] for kind in ("pil", "np", "pt")}
    z_i = [pipe.embed_images(images) for images in made.values()]
    assert torch.equal(z_i[0], z_i[1])
    assert torch.equal(z_i[0], z_i[2])


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (TENSOR / 127.5 - 1, r"from -1 to 0.9529; they must lie in \[0, 1\] \(\(x \+ 1\) / 2"),
        (LEVELS * 1.0, "floats from 0 to 249"),
        (torch.full((3, 4, 4), torch.nan), "floats from nan to nan"),
        (LEVELS.astype(int), "int64 values; give uint8, or floats"),
        (TENSOR.permute(1, 2, 0), r"a tensor of the shape \(6, 9, 3\); arrays are H × W × 3"),
        (TENSOR.numpy(), r"an array of the shape \(3, 6, 9\)"),
        (torch.zeros(2, 2, 3, 4, 4), "a tensor of the shape"),
        (torch.zeros(3, 0, 4), "a tensor of the shape"),
        (torch.zeros(3, 4, 4, device="meta"), "without plain values"),
        ("https://example.com/x.png", "nothing is fetched: download"),
        ("none.png", "does not exist"),
        (b"x", "a path, an array or a tensor, not bytes"),
        ([], "there is no image"),
    ],
)
def test_what_is_none(image: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        check_images(image)
    assert "\n" not in str(caught.value)
