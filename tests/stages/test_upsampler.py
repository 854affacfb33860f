"""The upsampler's stage: blurred small images, crops, and full size."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny import learns, noise, scenes
from unclip.data.degradations import DegradedSource
from unclip.data.registry import open_source
from unclip.diffusion.sampling import Sampling
from unclip.stages.crops import blur, random_crops
from unclip.stages.upsampler import SECOND, UpsamplerSettings, UpsamplerStage
from unclip.storage.folder import ModelFolder

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


def test_deep_features_are_reused_but_not_in_tiles(
    trained: tuple[UpsamplerStage, float, float],
) -> None:
    stage, computed = trained[0], []
    hook = stage.network.mid_block.register_forward_hook(lambda *_: computed.append(1))
    small = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def made(reuse: int, tile: int | None = None) -> Tensor:
        computed.clear()
        return stage.sample(small, Sampling(4, reuse=reuse), noise(1), size=(64, 64), tile=tile)

    assert (made(2) - made(1)).abs().max() > 1e-3
    assert len(computed) == 4
    made(2)
    assert len(computed) == 2
    assert torch.equal(made(2, 32), made(1, 32))
    assert len(computed) == 4 * 9
    hook.remove()


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


def test_crops_in_training_start_where_a_small_pixel_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that what bicubic upsampling makes of small pixels is where it is in whole images."""
    stage = UpsamplerStage.build(
        UpsamplerSettings(4, (16, 32), groups=8, crop=2, prediction_type="sample"), 32
    )
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x[:, 3:])
        return x[:, :3]

    monkeypatch.setattr(stage.network, "forward", network)
    pixels = torch.arange(32.0)[:, None] * torch.ones(32) / 31
    images = pixels.expand(64, 3, 32, 32)
    stage.loss({"images": images}, torch.Generator().manual_seed(0))
    # The ramp says where each crop begins.
    starts = {round(float(value), 3) for value in seen[0][:, 0, 8, 8]}
    assert len(starts) == 5  # (32 - 16) / 4 + 1 places


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
    from unclip.networks.upsampler import upsample_bicubic

    small = torch.nn.functional.avg_pool2d(images, 2)
    expected = upsample_bicubic(blur(small, 0.6), (32, 32))
    torch.testing.assert_close(seen[0][:, 3:], expected)

    stage.settings = replace(stage.settings, degradation_probability=0.5)
    sharp, kinds = upsample_bicubic(small, (32, 32)), []
    for seed in range(8):
        stage.loss({"images": images}, torch.Generator().manual_seed(seed))
        for made, clean, soft in zip(seen.pop()[:, 3:], sharp, expected, strict=True):
            assert torch.equal(made, clean) != torch.equal(made, soft)
            kinds.append(torch.equal(made, soft))
    assert 0.2 < sum(kinds) / len(kinds) < 0.8
    with pytest.raises(ValueError, match="degradation_probability is 2"):
        UpsamplerSettings(degradation_probability=2)


def test_the_second_upsampler_learns_from_degraded_crops(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = UpsamplerSettings(
        4, (16, 32), groups=8, crop=2, prediction_type="sample", beta_schedule="linear"
    )
    stage = UpsamplerStage.build(settings, 64, SECOND)
    samples = [DegradedSource(open_source("emoji:shapes", size=64), 32, 4)[i] for i in range(8)]
    batch = {
        "images": torch.stack([one["image"] for one in samples]) / 127.5 - 1,
        "small": torch.stack([one["small"] for one in samples]),
    }
    before, after = learns(stage, batch)
    assert after < 0.7 * before
    rows = stage.preview(batch, torch.Generator())
    assert rows is not None
    assert rows.shape == (3, 4, 3, 32, 32)

    folder = ModelFolder(tmp_path)
    UpsamplerStage.build(SETTINGS, 32).save(folder)  # the first, which must stay as it is
    stage.save(folder)
    again, first = (UpsamplerStage.load(folder, name) for name in (SECOND, "super_res_first"))
    assert (again.size, again.process.config.beta_schedule) == (64, "linear")
    assert (first.size, first.process.config.beta_schedule) == (32, "squaredcos_cap_v2")
    assert first.last is None
    small = torch.rand(1, 3, 6, 10) * 2 - 1
    a, b = (one.sample(small, Sampling(2), noise(1), size=(24, 40)) for one in (stage, again))
    assert a.shape == (1, 3, 24, 40)
    torch.testing.assert_close(a, b)


def test_the_batch_decides_what_the_condition_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from unclip.networks.upsampler import upsample_bicubic

    stage = UpsamplerStage.build(SETTINGS, 32, SECOND)
    seen: list[Tensor] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return x[:, :3]

    monkeypatch.setattr(stage.network, "forward", network)
    small = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    batch = {"images": torch.zeros(2, 3, 16, 16), "small": small}
    stage.loss(batch, torch.Generator().manual_seed(0))
    expected = upsample_bicubic(small / 127.5 - 1, (16, 16))
    torch.testing.assert_close(seen[0][:, 3:], expected)  # neither blurred nor cropped again


def test_tiles_leave_no_seam(
    trained: tuple[UpsamplerStage, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps from column to column are no larger where tiles meet than elsewhere.

    On pictures that are alike everywhere, smoothed noise, so that nothing else makes a difference.
    """
    stage = trained[0]
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(6, 3, 16, 16, generator=generator) * 2 - 1
    small = torch.nn.functional.interpolate(coarse, 64, mode="bilinear")

    def make(tile: int | None = None) -> Tensor:
        draw = noise(*range(6))
        return stage.sample(small, Sampling(3, "ddim"), draw, size=(128, 128), tile=tile)

    def largest(image: Tensor, columns: list[int]) -> float:
        """The largest mean step at these columns, of the median of all."""
        steps = image.diff(dim=3).abs().mean(dim=(0, 1, 2))  # (127,)
        return (steps[columns].max() / steps[8:-8].median()).item()

    whole, tiles = make(), make(64)
    # A tile that holds the image is the image; what differs is computing them one by one.
    torch.testing.assert_close(make(128), whole, atol=1e-3, rtol=0)
    # Tiles begin at 0, 32 and 64; one hands over to the next 4 to 12 pixels from their edges.
    meeting = [edge + d for edge in (32, 64, 96) for d in range(-13, 13)]
    seam = largest(tiles, meeting) / largest(whole, meeting)

    def cut(network: Callable[[Tensor], Tensor], x: Tensor, *_: int) -> Tensor:
        rows = [
            torch.cat([network(part) for part in row.split(64, 3)], 3) for row in x.split(64, 2)
        ]
        return torch.cat(rows, dim=2)

    monkeypatch.setattr("unclip.stages.upsampler.tiled", cut)
    hard = largest(make(64), meeting) / largest(whole, meeting)
    print(f"steps where tiles meet, of the untiled: {seam:.3f}; with hard cuts {hard:.3f}")
    assert seam < 1.15
    assert hard > 1.3  # a seam would be seen
