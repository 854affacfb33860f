"""Guidance that a decoder has learned: one evaluation in place of two branches."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.stages.test_decoder import CAPTIONS
from tests.tiny import noise, scenes
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.losses import LossConfig
from unclip.models.folder import ModelFolder
from unclip.models.unet import UNet
from unclip.stages.base import Sampling
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import GUIDANCE_WIDTH, DecoderStage

SCALES = (1.0, 4.0)
DISTILLED = Guidance(3.0, distilled=True)


@pytest.fixture(scope="module")
def clip(tiny_model: Path) -> FrozenCLIP:
    return FrozenCLIP.load(ModelFolder(tiny_model))


@pytest.fixture
def stage(clip: FrozenCLIP, tiny_model: Path) -> DecoderStage:
    """A decoder that is about to learn guidance."""
    stage = DecoderStage.load(ModelFolder(tiny_model), clip)
    torch.manual_seed(0)
    stage.network.decoder.embed_guidance(GUIDANCE_WIDTH)
    stage.settings = replace(stage.settings, guidance_scales=SCALES)
    return stage


def sampled(stage: DecoderStage, guidance: Guidance, *seeds: int, steps: int = 8) -> Tensor:
    text = stage.clip.text(CAPTIONS[: len(seeds)])
    z_i = stage.clip.image(scenes(len(seeds), 32, 10)["images"])
    return stage.sample(z_i, text, Sampling(steps, guidance=guidance), noise(*seeds))


def rows_of(stage: DecoderStage, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every evaluation to come."""
    rows: list[int] = []
    proceed = UNet.proceed

    def counting(self: UNet, x: Tensor, *rest: object) -> Tensor:
        rows.append(len(x))
        return proceed(self, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(UNet, "proceed", counting)
    return rows


def test_a_new_embedding_changes_nothing_where_it_is_not_asked(
    stage: DecoderStage, clip: FrozenCLIP, tiny_model: Path
) -> None:
    before = DecoderStage.load(ModelFolder(tiny_model), clip)
    for guidance in (Guidance(), Guidance(3.0)):
        plain = sampled(before, guidance, 1, 2)
        assert torch.equal(sampled(stage, guidance, 1, 2), plain)


def test_scales_matter_and_one_is_no_guidance(stage: DecoderStage) -> None:
    plain = sampled(stage, Guidance(), 1, 2)
    assert torch.equal(sampled(stage, Guidance(1.0, distilled=True), 1, 2), plain)
    results = [sampled(stage, Guidance(s, distilled=True), 1, 2) for s in (2.0, 3.0)]
    assert all((result - plain).abs().max() > 1e-3 for result in results)
    assert (results[0] - results[1]).abs().max() > 1e-3


def test_an_image_is_the_same_alone_and_in_a_batch(stage: DecoderStage) -> None:
    both = sampled(stage, DISTILLED, 7, 8)
    torch.testing.assert_close(sampled(stage, DISTILLED, 7)[0], both[0], atol=1e-4, rtol=1e-4)


def test_one_evaluation_a_step(stage: DecoderStage, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(stage, monkeypatch)
    whole = sampled(stage, DISTILLED, 1, 2)
    assert rows == [2] * 8
    sampled(stage, Guidance(3.0), 1, 2)
    assert rows[8:] == [4] * 8
    inside = sampled(stage, replace(DISTILLED, interval=(0.3, 5.0)), 1, 2)
    assert (inside - whole).abs().max() > 1e-3
    nowhere = sampled(stage, replace(DISTILLED, interval=(1e6, 1e7)), 1, 2)
    assert torch.equal(nowhere, sampled(stage, Guidance(), 1, 2))
    everywhere = sampled(stage, replace(DISTILLED, interval=(0.0, math.inf)), 1, 2)
    assert torch.equal(everywhere, whole)


def test_its_loss_is_zero_for_what_guidance_gives(
    stage: DecoderStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {**scenes(6), "images": 0.2 * scenes(6)["images"][:, :, ::2, ::2]}
    stage.settings = replace(stage.settings, loss=LossConfig(vlb_weight=0.0))
    null = stage._condition(
        torch.zeros(1, stage.clip.width), stage.clip.text([""]), torch.tensor([True])
    )

    def distance(learned: float) -> float:
        """The loss of a network that answers x_0 by its condition, and scales that by `learned`."""

        def forward(
            x: Tensor, t: Tensor, guidance_scale: Tensor | None = None, **condition: Tensor
        ) -> Tensor:
            values, absent = (0.1 * c["time_condition"].mean(1) for c in (condition, null))
            if guidance_scale is not None:
                values = absent + learned * guidance_scale * (values - absent)
            return torch.cat([x * 0 + values[:, None, None, None], x * 0], dim=1)

        monkeypatch.setattr(stage.network.decoder, "forward", forward)
        return stage.loss(batch, torch.Generator().manual_seed(0))["guidance"].item()

    ideal, others = distance(1.0), [distance(0.5), distance(1.5)]
    assert min(others) > 1e-5
    assert ideal < 1e-4 * min(others)


def test_its_loss_follows_the_generator_and_reaches_every_weight(stage: DecoderStage) -> None:
    stage.settings = replace(stage.settings, drop_image=0.5)
    batch = {**scenes(4), "images": scenes(4)["images"][:, :, ::2, ::2]}
    a, b, c = (stage.loss(batch, torch.Generator().manual_seed(k)) for k in (5, 5, 6))
    assert a["guidance"] == b["guidance"] != c["guidance"]
    c["loss"].backward()  # type: ignore[no-untyped-call]
    parameters = stage.network.named_parameters()
    assert [name for name, p in parameters if p.grad is None or not p.grad.any()] == []


def test_beside_mask_channels(stage: DecoderStage) -> None:
    stage.widen()
    batch = {**scenes(3), "images": scenes(3)["images"][:, :, ::2, ::2]}
    assert stage.loss(batch, torch.Generator().manual_seed(0))["guidance"].isfinite()
    assert sampled(stage, DISTILLED, 1, 2).isfinite().all()


def test_it_is_saved(stage: DecoderStage, clip: FrozenCLIP, tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    stage.save(folder)
    assert folder.config("decoder")["time_cond_proj_dim"] == GUIDANCE_WIDTH
    again = DecoderStage.load(folder, clip)
    assert again.settings.guidance_scales == SCALES
    assert torch.equal(sampled(again, DISTILLED, 1), sampled(stage, DISTILLED, 1))


def test_a_decoder_that_has_not_learned_it(clip: FrozenCLIP, tiny_model: Path) -> None:
    stage = DecoderStage.load(ModelFolder(tiny_model), clip)
    assert not stage.distils(3.0)
    assert stage.distils(1.0)
    with pytest.raises(
        ValueError, match="at scale 3 was asked for, but this decoder has learned no"
    ):
        sampled(stage, DISTILLED, 1)
    assert torch.equal(
        sampled(stage, Guidance(1.0, distilled=True), 1), sampled(stage, Guidance(), 1)
    )


def test_scales_that_it_has_not_learned(stage: DecoderStage) -> None:
    assert [stage.distils(scale) for scale in (0.5, 1.0, 4.0, 4.1)] == [False, True, True, False]
    with pytest.raises(ValueError, match="has learned scales from 1 to 4"):
        sampled(stage, replace(DISTILLED, scale=5.0), 1)


@pytest.mark.parametrize("scales", [(0.5, 2.0), (3.0, 3.0), (4.0, 2.0), (math.nan, 2.0)])
def test_ranges_that_make_no_sense(stage: DecoderStage, scales: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="give two of 1 or more, the lower one first"):
        replace(stage.settings, guidance_scales=scales)


def test_a_folder_whose_parts_do_not_fit(clip: FrozenCLIP, tiny_copy: Path) -> None:
    ModelFolder(tiny_copy).update_index({"_decoder": {"guidance_scales": [1, 4]}})
    with pytest.raises(ValueError, match="no time_cond_proj_dim: they are not of one model"):
        DecoderStage.load(ModelFolder(tiny_copy), clip)
