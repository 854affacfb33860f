"""Guidance distillation: what the student learns, and one evaluation in place of two branches."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.acceleration.test_int8 import needs_int8
from tests.stages.decoder.test_stage import CAPTIONS
from tests.tiny import noise, scenes
from unclip import Pipeline
from unclip.batch import Batch
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.losses import LossConfig
from unclip.diffusion.sampling import Sampling
from unclip.networks.unet import UNet
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import STUDENT, DecoderStage
from unclip.stages.students.guidance import DistillationSettings, DistillationStage
from unclip.storage.folder import ModelFolder

SETTINGS = DistillationSettings((1.0, 4.0))
DISTILLED = Guidance(3.0, distilled=True)


@pytest.fixture
def stage(teacher: DecoderStage) -> DistillationStage:
    torch.manual_seed(0)
    return DistillationStage.build(SETTINGS, teacher)


@pytest.fixture
def both(stage: DistillationStage) -> DecoderStage:
    """The decoder with its student."""
    return stage.teacher


def small(count: int) -> Batch:
    return {**scenes(count), "images": scenes(count)["images"][:, :, ::2, ::2]}


def sampled(stage: DecoderStage, guidance: Guidance, *seeds: int, steps: int = 8) -> Tensor:
    text = stage.clip.text(CAPTIONS[: len(seeds)])
    z_i = stage.clip.image(scenes(len(seeds), 32, 10)["images"])
    return stage.sample(z_i, text, Sampling(steps, guidance=guidance), noise(*seeds))


def guided_by(scale: float) -> Sampling:
    return Sampling(guidance=Guidance(scale))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[UNet, int]]:
    """The network and the number of rows of every evaluation to come."""
    seen: list[tuple[UNet, int]] = []
    proceed = UNet.proceed

    def counting(self: UNet, x: Tensor, *rest: object) -> Tensor:
        seen.append((self, len(x)))
        return proceed(self, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(UNet, "proceed", counting)
    return seen


def test_a_student_starts_as_its_teacher(both: DecoderStage, teacher: DecoderStage) -> None:
    for guidance in (Guidance(), Guidance(3.0)):
        assert torch.equal(sampled(both, guidance, 1, 2), sampled(teacher, guidance, 1, 2))
    nowhere = replace(DISTILLED, interval=(1e6, 1e7))
    plain = sampled(teacher, Guidance(), 1, 2)
    assert torch.equal(sampled(both, nowhere, 1, 2), plain)
    assert torch.equal(sampled(both, Guidance(1.0, distilled=True), 1, 2), plain)
    assert both.student is not None
    student, own = both.student.network, teacher.network.decoder
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    condition = teacher._condition(
        torch.zeros(2, teacher.clip.width), teacher.clip.text(CAPTIONS), None
    )
    with torch.no_grad():
        one = student(x, t, **condition, guidance_scale=torch.ones(2))
        torch.testing.assert_close(one, own(x, t, **condition))


def test_scales_matter(both: DecoderStage) -> None:
    plain = sampled(both, Guidance(), 1, 2)
    results = [sampled(both, Guidance(s, distilled=True), 1, 2) for s in (2.0, 3.0)]
    assert all((result - plain).abs().max() > 1e-3 for result in results)
    assert (results[0] - results[1]).abs().max() > 1e-3


def test_an_image_is_the_same_alone_and_in_a_batch(both: DecoderStage) -> None:
    batch = sampled(both, DISTILLED, 7, 8)
    torch.testing.assert_close(sampled(both, DISTILLED, 7)[0], batch[0], atol=1e-4, rtol=1e-4)


def test_one_evaluation_a_step(both: DecoderStage, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted(monkeypatch)
    assert both.student is not None
    whole = sampled(both, DISTILLED, 1, 2)
    assert seen == [(both.student.network, 2)] * 8
    seen.clear()
    sampled(both, Guidance(3.0), 1, 2)
    assert seen == [(both.network.decoder, 4)] * 8
    everywhere = sampled(both, replace(DISTILLED, interval=(0.0, math.inf)), 1, 2)
    assert torch.equal(everywhere, whole)
    inside = sampled(both, replace(DISTILLED, interval=(0.3, 5.0)), 1, 2)
    assert (inside - whole).abs().max() > 1e-3


def test_its_loss_is_zero_for_what_guidance_gives(
    stage: DistillationStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.settings = replace(SETTINGS, loss=LossConfig(vlb_weight=0.0))
    teacher, batch = stage.teacher, small(6)
    width = teacher.clip.width
    null = teacher._condition(torch.zeros(1, width), teacher.clip.text([""]), torch.tensor([True]))

    def answering(learned: float) -> Callable[..., Tensor]:
        """A network that answers x_0 by its condition, and scales that by `learned`."""

        def forward(
            x: Tensor, t: Tensor, guidance_scale: Tensor | None = None, **condition: Tensor
        ) -> Tensor:
            values, absent = (0.1 * c["time_condition"].mean(1) for c in (condition, null))
            if guidance_scale is not None:
                values = absent + learned * guidance_scale * (values - absent)
            return torch.cat([x * 0 + values[:, None, None, None], x * 0], dim=1)

        return forward

    def distance(learned: float) -> float:
        monkeypatch.setattr(stage.network, "forward", answering(learned))
        return stage.loss(batch, torch.Generator().manual_seed(0))["loss"].item()

    monkeypatch.setattr(teacher.network.decoder, "forward", answering(1.0))
    ideal, others = distance(1.0), [distance(0.5), distance(1.5)]
    assert min(others) > 1e-5
    assert ideal < 1e-4 * min(others)


def test_it_learns(stage: DistillationStage) -> None:
    stage.settings, batch = replace(SETTINGS, loss=LossConfig(vlb_weight=0.0)), small(8)
    optimiser = torch.optim.AdamW(stage.network.parameters(), lr=2e-3)
    errors = []
    for _ in range(40):
        optimiser.zero_grad()
        losses = stage.loss(batch, torch.Generator().manual_seed(0))
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        errors.append(losses["mse"].item())
    assert errors[-1] < 0.5 * errors[0]


def test_only_the_student_is_trained_and_all_of_it(stage: DistillationStage) -> None:
    batch = small(4)
    a, b, c = (stage.loss(batch, torch.Generator().manual_seed(k))["loss"] for k in (5, 5, 6))
    assert a == b
    assert a != c
    c.backward()  # type: ignore[no-untyped-call]
    trained = stage.network.named_parameters()
    assert [name for name, p in trained if p.grad is None or not p.grad.any()] == []
    assert all(p.grad is None for p in stage.teacher.network.parameters())


def test_a_teacher_with_mask_channels(teacher: DecoderStage) -> None:
    teacher.widen()
    stage = DistillationStage.build(SETTINGS, teacher)
    assert stage.loss(small(3), torch.Generator().manual_seed(0))["loss"].isfinite()
    assert sampled(stage.teacher, DISTILLED, 1, 2).isfinite().all()


def test_previews_show_both_branches_above_the_student(stage: DistillationStage) -> None:
    rows = stage.preview(small(2), torch.Generator().manual_seed(0))
    assert rows is not None
    assert rows.shape == (3, 2, 3, 16, 16)
    assert torch.equal(rows[0], small(2)["images"])
    assert not torch.equal(rows[1], rows[2])


def test_it_is_saved_beside_its_teacher(
    stage: DistillationStage, clip: FrozenCLIP, tiny_copy: Path
) -> None:
    folder = ModelFolder(tiny_copy)
    stage.save(folder)
    again = DecoderStage.load(folder, clip)
    assert again.student is not None
    assert again.student.scales == SETTINGS.guidance_scales
    assert torch.equal(sampled(again, DISTILLED, 1), sampled(stage.teacher, DISTILLED, 1))
    again.save(folder)
    assert folder.has(STUDENT)
    again.with_student(None).save(folder)  # the same decoder
    assert folder.has(STUDENT)
    with torch.no_grad():
        again.network.decoder.conv_in.weight.add_(1)
    again.with_student(None).save(folder)  # another decoder, which has not taught it
    assert not folder.has(STUDENT)
    with pytest.raises(ValueError, match="has changed while its student was trained"):
        stage.save(folder)
    assert not (tiny_copy / STUDENT).exists()
    assert "_decoder_distilled" not in folder.index()


def test_a_model_without_a_student(teacher: DecoderStage) -> None:
    assert [teacher.distils(guided_by(scale)) for scale in (1.0, 3.0)] == [True, False]
    with pytest.raises(
        ValueError, match="at scale 3 was asked for, but this model has no decoder_"
    ):
        sampled(teacher, DISTILLED, 1)


def test_scales_that_it_has_not_learned(both: DecoderStage) -> None:
    known = [both.distils(guided_by(scale)) for scale in (0.5, 1.0, 4.0, 4.1)]
    assert known == [False, True, True, False]
    with pytest.raises(ValueError, match="decoder_distilled knows scales from 1 to 4"):
        sampled(both, replace(DISTILLED, scale=5.0), 1)


@pytest.mark.parametrize("scales", [(0.5, 2.0), (3.0, 3.0), (4.0, 2.0), (math.nan, 2.0)])
def test_ranges_that_make_no_sense(scales: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="guidance_scales"):
        DistillationSettings(scales)


@pytest.mark.parametrize(
    ("component", "note", "says"),
    [
        ({"time_cond_proj_dim": None}, {"guidance_scales": [1, 4]}, "must have the sizes of the"),
        ({"sample_size": 8}, {"guidance_scales": [1, 4]}, "must have the sizes of the decoder"),
        ({}, None, "_decoder_distilled is None; it must be an object"),
        ({}, {"guidance_scales": 4}, "guidance_scales is 4; it must be a list"),
        ({}, {"scales": [1, 4]}, "unknown key 'scales'"),
    ],
)
def test_folders_whose_parts_do_not_fit(
    component: dict[str, int], note: object, says: str, stage: DistillationStage, clip: FrozenCLIP,
    tiny_copy: Path,
) -> None:  # fmt: skip
    from unclip.files import write_json

    folder = ModelFolder(tiny_copy)
    stage.save(folder)
    config = folder.config(STUDENT) | component
    write_json(tiny_copy / STUDENT / "config.json", config)
    folder.update_index({"_decoder_distilled": note})
    with pytest.raises(ValueError, match=says):
        DecoderStage.load(folder, clip)


@pytest.mark.parametrize("how", ["plain", "offload", pytest.param("int8", marks=needs_int8)])
def test_a_pipeline_opens_it(
    how: str, stage: DistillationStage, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.save(ModelFolder(tiny_copy))
    dtype = "int8" if how == "int8" else "fp32"
    pipe = Pipeline.from_pretrained(tiny_copy, dtype=dtype, offload=how == "offload", device="cpu")
    seen = counted(monkeypatch)
    settings = {"decoder_guidance_scale": 3.0, "output_type": "tensor", "size": 16, "steps": "fast"}
    fast = pipe("a red circle", **settings).images
    assert [rows for _, rows in seen] == [1] * 14
    seen.clear()
    branches = pipe("a red circle", **settings, guidance_kind="branches").images
    assert sorted(rows for _, rows in seen) == [1] * 4 + [2] * 5
    assert not torch.equal(fast, branches)
    if how == "plain":
        pipe.save_pretrained(tiny_copy.with_name("again"))
        again = Pipeline.from_pretrained(tiny_copy.with_name("again"), dtype="fp32", device="cpu")
        assert torch.equal(again("a red circle", **settings).images, fast)


def test_the_decoder_itself_computes_what_is_not_guided(
    both: DecoderStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    assert both.student is not None
    sampled(both, replace(DISTILLED, interval=(0.3, 5.0)), 1, 2)
    # σ at t = 999, 856, 714, 571, 428, 285, 143, 0 is from 2e4 to 0.006.
    networks = [both.network.decoder] * 1 + [both.student.network] * 5 + [both.network.decoder] * 2
    assert seen == [(network, 2) for network in networks]


def test_reused_features_are_not_carried_from_one_network_to_the_other(
    both: DecoderStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[bool] = []
    run = UNet._run

    def watched(self: UNet, x: Tensor, emb: Tensor, context: Any, kept: Any = None) -> Any:
        whole.append(kept is None)
        return run(self, x, emb, context, kept)

    monkeypatch.setattr(UNet, "_run", watched)
    text, z_i = both.clip.text(CAPTIONS[:1]), both.clip.image(scenes(1, 32, 10)["images"])
    guidance = replace(DISTILLED, interval=(0.3, 5.0))
    both.sample(z_i, text, Sampling(8, guidance=guidance, reuse=4), noise(1))
    # One step of the decoder, five of the student, of which the last is its fifth, and two more.
    assert whole == [True, True, False, False, False, True, True, False]
