"""Reconstructions are made of their own images, and measured against them."""

from pathlib import Path

import pytest
import torch

from tests.conftest import captioned_folder
from unclip.data.registry import open_source
from unclip.data.sources import read
from unclip.data.transforms import from_bytes
from unclip.evaluation.generated import Generated
from unclip.evaluation.report import Conditions, Report
from unclip.evaluation.studies.reconstruction import (
    from_embeddings,
    in_features,
    in_pixels,
    of_images,
    resized,
)
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.pixels import to_signed, to_uint8

UNDER = Conditions(4, "the same images", 4, "all", "none", "none", 16)


def test_each_image_is_made_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    source = open_source(str(captioned_folder(tmp_path / "mine", 3)), size=16, split="all")
    real = [sample["image"] for sample in read(source, range(3))]
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32")
    wanted, steps = of_images(real, 4), []
    settings = Settings(steps="fast", size=16)
    draw = from_embeddings(pipe, settings, real, steps.append)
    made = Generated(tmp_path, {"made": "from z_i"})
    made.make(wanted[::-1], draw, 2)  # whatever the order, an image is that of its own
    assert sum(steps) == 3 * pipe.evaluations(settings, "decoder")
    expected = pipe.vary(
        [from_bytes(real[1])], settings=settings, output_type="tensor",
        generator=[torch.Generator().manual_seed(4)],
    ).images  # fmt: skip
    found = next(made.read(wanted[1:2]))
    assert (to_uint8(found).int() - to_uint8(expected).int()).abs().max() <= 1

    inverted = from_embeddings(pipe, settings.for_reconstruction(3), real, steps.append, 3)
    assert inverted(wanted).shape == (3, 3, 16, 16)


def test_images_themselves_are_right_and_others_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    bytes_ = torch.randint(256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    report = Report("")
    in_pixels(to_signed(bytes_), to_signed(bytes_), UNDER, "same", report)
    in_pixels(to_signed(bytes_.flip(0)), to_signed(bytes_), UNDER, "other", report)
    psnr, ssim, *others = [one.found.value for one in report.numbers]
    assert (psnr, ssim) == (100.0, pytest.approx(1.0))
    assert others[0] < 15
    small = resized(list(bytes_), 8)
    in_pixels(small, small, UNDER, "small", report)
    assert [one.metric for one in report.numbers if one.of == "small"] == ["PSNR, dB"]
    assert torch.allclose(small[0, 0, 0, 0], to_signed(bytes_)[0, 0, :4, :4].mean())


def test_features_find_their_own_image() -> None:
    class Named:
        name, hash, size, dimensions = "named", "0" * 16, 4, 4

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            raise AssertionError

    real = torch.eye(4)
    near = real + 0.1
    found = in_features(near, real, Named(), UNDER, "near", Report(""))
    assert found["nearest of 4 is the image"].value == 1
    assert 0.9 < found["cosine to the image"].value < 1
    found = in_features(near.roll(1, 0), real, Named(), UNDER, "far", Report(""))
    assert found["nearest of 4 is the image"].value == 0
