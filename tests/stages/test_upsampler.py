"""The upsampler's stage: blurred small images, crops, and full size."""

from pathlib import Path

import pytest
import torch

from tests.tiny import learns, noise, scenes
from unclip.models.folder import ModelFolder
from unclip.stages.base import Sampling
from unclip.stages.upsampler import UpsamplerSettings, UpsamplerStage, blur, random_crops

SETTINGS = UpsamplerSettings(2, (16, 32), groups=8, crop=2, prediction_type="sample")


@pytest.fixture(scope="module")
def trained() -> tuple[UpsamplerStage, float, float]:
    torch.manual_seed(0)
    stage = UpsamplerStage.build(SETTINGS, 32)
    return stage, *learns(stage, scenes(8))


def test_it_learns_on_crops_and_works_at_full_size(
    trained: tuple[UpsamplerStage, float, float], tmp_path: Path
) -> None:
    stage, before, after = trained
    assert after < 0.7 * before
    small = torch.rand(2, 3, 16, 16) * 2 - 1
    a = stage.sample(small, Sampling(3), noise(1, 2))
    assert a.shape == (2, 3, 32, 32)
    stage.save(ModelFolder(tmp_path))
    again = UpsamplerStage.load(ModelFolder(tmp_path), "super_res_first")
    assert again.size == 32
    torch.testing.assert_close(again.sample(small, Sampling(3), noise(1, 2)), a)
    alone = stage.sample(small[1:], Sampling(3), noise(2))
    torch.testing.assert_close(alone[0], a[1], atol=1e-4, rtol=1e-4)


def test_the_blur_is_a_gaussian_of_unit_sum() -> None:
    point = torch.zeros(1, 2, 7, 7)
    point[:, :, 3, 3] = 1.0
    out = blur(point, 0.6)
    assert out.sum(dim=(2, 3)).tolist() == [pytest.approx([1.0, 1.0])]
    ratio = torch.exp(torch.tensor(-0.5 / 0.36)).item()
    assert (out[0, 0, 3, 4] / out[0, 0, 3, 3]).item() == pytest.approx(ratio, rel=1e-5)
    assert (out[0, 0, 4, 4] / out[0, 0, 3, 3]).item() == pytest.approx(ratio**2, rel=1e-5)
    assert out[0, 0, 3, 5] == 0
    flat = torch.full((1, 3, 5, 5), 0.3)
    torch.testing.assert_close(blur(flat, 0.6), flat)  # edges too
    assert blur(flat, 0.0) is flat


def test_crops_keep_image_and_condition_together() -> None:
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    images = torch.stack([y, x, y * 8 + x]).expand(400, -1, -1, -1)
    crops = random_crops(images, 3, torch.Generator().manual_seed(0))
    assert crops.shape == (400, 3, 3, 3)
    assert torch.equal(crops[:, 2], crops[:, 0] * 8 + crops[:, 1])
    corners = crops[:, 2, 0, 0].unique()
    assert len(corners) == 36  # every place
    assert corners.max() == 5 * 8 + 5
    whole = random_crops(images, 8, torch.Generator())
    assert torch.equal(whole, images)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.size 36 does not fit.*take a multiple of"):
        UpsamplerStage.build(UpsamplerSettings(4, (16, 32, 32), groups=8), 36)


def test_the_condition_is_the_blurred_small_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = UpsamplerStage.build(
        UpsamplerSettings(2, (16, 32), groups=8, crop=1, prediction_type="sample"), 32
    )
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x[:, :3]

    monkeypatch.setattr(stage.network, "forward", network)
    images = scenes(4)["images"]
    stage.loss({"images": images}, torch.Generator().manual_seed(0))
    from unclip.models.upsampler import upsample_bicubic

    small = torch.nn.functional.avg_pool2d(images, 2)
    expected = upsample_bicubic(blur(small, 0.6), (32, 32))
    torch.testing.assert_close(seen[0][:, 3:], expected)
