"""A student of few steps: what its segments are, what it learns, and how it is sampled."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.stages.decoder.test_stage import CAPTIONS
from tests.stages.students.test_guidance import counted, sampled, small
from tests.tiny import noise, scenes
from unclip import Pipeline, Settings
from unclip.checks import Notice
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.losses import LossConfig
from unclip.diffusion.sampling import Sampling
from unclip.diffusion.schedules import Schedule
from unclip.pipeline.settings import PRESETS
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import STUDENT, DecoderStage
from unclip.stages.decoder.student import FEW_STEP_SAMPLING, FewStepStudent
from unclip.stages.students.few_steps import FewStepSettings, FewStepStage, Segments
from unclip.storage.folder import ModelFolder

SETTINGS = FewStepSettings((1.5, 4.0), loss=LossConfig(weighting="truncated_snr"))
GUIDED = Guidance(3.0, distilled=True)


@pytest.fixture
def stage(teacher: DecoderStage) -> FewStepStage:
    torch.manual_seed(0)
    return FewStepStage.build(SETTINGS, teacher)


def taken(stage: FewStepStage, steps: int, *seeds: int) -> Tensor:
    """Images by the student in so many steps."""
    text = stage.clip.text(CAPTIONS[: len(seeds)])
    z_i = stage.clip.image(scenes(len(seeds), 32, 10)["images"])
    sampling = Sampling(steps, guidance=GUIDED, **FEW_STEP_SAMPLING)
    return stage.teacher.sample(z_i, text, sampling, noise(*seeds))


def test_segments_are_where_steps_begin_and_end() -> None:
    segments = Segments(Schedule.cosine(1000), (4, 2, 1))
    t = torch.tensor([0, 249, 250, 499, 500, 999, 999, 0, 300])
    k = torch.tensor([4, 4, 4, 4, 4, 4, 1, 1, 2])
    assert segments.beginning(t, k).tolist() == [249, 249, 499, 499, 749, 999, 999, 999, 499]
    assert segments.end(t, k).tolist() == [-1, -1, 249, 249, 499, 749, -1, -1, -1]


@pytest.mark.parametrize("timesteps", [7, 10, 1000])
def test_each_segment_is_two_of_twice_as_many_steps(timesteps: int) -> None:
    segments = Segments(Schedule.cosine(timesteps), (4, 2, 1))
    t = torch.arange(timesteps)
    for k in (2, 1):
        own, finer = torch.full_like(t, k), torch.full_like(t, 2 * k)
        begins, ends = segments.beginning(t, own), segments.end(t, own)
        middle = segments.end(begins, finer)
        assert (middle >= ends).all()
        assert torch.equal(
            torch.where(middle > ends, segments.end(middle.clamp(min=0), finer), ends), ends
        )


def test_a_perfect_student_has_nothing_to_learn(
    stage: FewStepStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where teacher and student both know the image, all ways to the end of a segment agree."""
    batch = small(8)
    images = batch["images"]

    def knowing(off: float) -> Callable[..., Tensor]:
        def forward(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
            x0 = (images + off).clamp(-1, 1)
            every_other = x0[1::2] if "guidance_scale" in condition else x0[::2].repeat(2, 1, 1, 1)
            rows = {4: every_other, 8: x0 if "guidance_scale" in condition else every_other}
            return torch.cat([rows[len(x)], x * 0], dim=1)

        return forward

    monkeypatch.setattr(stage.teacher.network.decoder, "forward", knowing(0.0))
    losses = []
    for off in (0.0, 0.2):
        monkeypatch.setattr(stage.network, "forward", knowing(off))
        losses.append(stage.loss(batch, torch.Generator().manual_seed(0)))
    assert losses[0]["loss"] < 1e-6
    assert losses[1]["loss"] > 1e-4
    assert {"mse_4", "mse_2", "mse_1"} <= losses[0].keys()


def test_it_learns(stage: FewStepStage) -> None:
    batch = small(8)
    optimiser = torch.optim.AdamW(stage.network.parameters(), lr=2e-3)
    errors = []
    for _ in range(40):
        optimiser.zero_grad()
        losses = stage.loss(batch, torch.Generator().manual_seed(0))
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        errors.append(losses["mse"].item())
    assert errors[-1] < 0.7 * errors[0]


def test_only_the_student_is_trained(stage: FewStepStage) -> None:
    batch = small(4)
    a, b, c = (stage.loss(batch, torch.Generator().manual_seed(k))["loss"] for k in (5, 5, 6))
    assert a == b
    assert a != c
    c.backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and p.grad.any() for p in stage.network.parameters())
    assert all(p.grad is None for p in stage.teacher.network.parameters())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_small_batches(count: int, stage: FewStepStage) -> None:
    losses = stage.loss(small(count), torch.Generator().manual_seed(0))
    assert all(value.isfinite() for value in losses.values())


def test_one_evaluation_a_step_told_how_many_there_are(
    stage: FewStepStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    images = {n: taken(stage, n, 1, 2) for n in (1, 2, 4)}
    assert seen == [(stage.network, 2)] * 7
    torch.testing.assert_close(taken(stage, 4, 1)[0], images[4][0], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        stage.network.time_embedding.cond_proj.weight.normal_()  # type: ignore[union-attr]
    assert (taken(stage, 4, 1, 2) - images[4]).abs().max() > 1e-3


def test_steps_that_it_has_not_learned(stage: FewStepStage) -> None:
    with pytest.raises(ValueError, match=r"answers in 1, 2 or 4 steps of DDIM with η = 0"):
        taken(stage, 3, 1)
    with pytest.raises(ValueError, match=r"knows scales from 1\.5 to 4"):
        sampled(stage.teacher, Guidance(5.0, distilled=True), 1, steps=4)


def test_previews_show_each_number_of_steps(stage: FewStepStage) -> None:
    rows = stage.preview(small(2), torch.Generator().manual_seed(0))
    assert rows is not None
    assert rows.shape == (5, 2, 3, 16, 16)


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="teacher_steps is 6, but must be most_steps, 8, or more"):
        FewStepSettings(most_steps=8, teacher_steps=6)
    with pytest.raises(ValueError, match="most_steps is 6, but must be 2, 4, 8"):
        FewStepSettings(most_steps=6)
    with pytest.raises(ValueError, match="guidance_scales"):
        FewStepSettings((3.0, 3.0))


def test_mask_channels(teacher: DecoderStage) -> None:
    teacher.widen()
    stage = FewStepStage.build(SETTINGS, teacher)
    assert stage.loss(small(3), torch.Generator().manual_seed(0))["loss"].isfinite()
    assert taken(stage, 2, 1, 2).isfinite().all()


@pytest.fixture
def folder(stage: FewStepStage, tiny_copy: Path) -> ModelFolder:
    """A model with such a student."""
    folder = ModelFolder(tiny_copy)
    stage.teacher.with_student(None).save(folder)
    stage.save(folder)
    return folder


def test_presets_choose_it(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipeline.from_pretrained(folder.path, device="cpu", dtype="fp32")
    assert isinstance(pipe.decoder.student, FewStepStudent)
    guided = {"decoder_guidance_scale": 3.0}

    def steps(preset: str, **more: object) -> tuple[int, bool]:
        found = pipe.sampling("decoder", Settings(steps=preset, **{**guided, **more}))  # type: ignore[arg-type]
        return found.steps, found.guidance.distilled

    for name, row in PRESETS.items():
        if row.decoder_few_steps:
            assert steps(name) == (row.decoder_few_steps["steps"], True)
        else:
            assert steps(name)[1] is False
    assert steps("default", guidance_kind="distilled") == (4, True)
    assert steps("fast", decoder_num_inference_steps=2) == (2, True)
    # What it has not learned, the decoder itself does as the preset says.
    plain = PRESETS["turbo"].decoder["steps"], False
    assert steps("turbo", decoder_guidance_scale=1.0) == plain
    assert steps("turbo", decoder_guidance_scale=9.0) == plain
    assert steps("turbo", negative_prompt="a dog") == plain
    assert steps("turbo", guidance_rescale=0.7) == plain
    assert steps("turbo", guidance_interval=(0.0, 5.0)) == plain
    assert steps("turbo", guidance_interval=(0.0, math.inf)) == (1, True)
    assert steps("turbo", guidance_kind="branches") == plain
    assert steps("turbo", decoder_num_inference_steps=7) == (7, False)
    seen = counted(monkeypatch)
    pipe("a red circle", settings=Settings(steps="turbo", size=16, **guided))  # type: ignore[arg-type]
    assert seen == [(pipe.decoder.student.network, 1)]


def test_parts_of_images_are_painted_by_the_decoder_unless_it_sees_what_is_known(
    folder: ModelFolder,
) -> None:
    pipe = Pipeline.from_pretrained(folder.path, device="cpu", dtype="fp32")
    settings = Settings(steps="turbo", decoder_guidance_scale=3.0)
    assert not pipe.sampling("decoder", settings, painting=True).guidance.distilled
    asked = replace(settings, guidance_kind="distilled")
    with pytest.raises(ValueError, match="has not learned to complete images"):
        pipe.sampling("decoder", asked, painting=True)


def test_inverted_latents_are_the_decoders_own(
    folder: ModelFolder, recwarn: pytest.WarningsRecorder
) -> None:
    pipe = Pipeline.from_pretrained(folder.path, device="cpu", dtype="fp32")
    image = Image.new("RGB", (16, 16), "red")
    latents = pipe.invert(image, 3)
    asked = {"settings": Settings(steps="turbo", size=16), "output_type": "tensor"}
    by_decoder = pipe.vary(latents, settings=Settings(size=16), output_type="tensor").images
    assert not recwarn.list
    assert torch.equal(pipe.vary(latents, **asked).images, by_decoder)  # type: ignore[arg-type]
    assert "decoded by the decoder itself, in 3 steps" in str(recwarn.pop(Notice).message)


def test_it_is_saved_beside_its_teacher(
    stage: FewStepStage, folder: ModelFolder, clip: FrozenCLIP
) -> None:
    again = DecoderStage.load(folder, clip)
    assert isinstance(again.student, FewStepStudent)
    assert (again.student.scales, again.student.steps) == (SETTINGS.guidance_scales, (4, 2, 1))
    with torch.no_grad():
        again.network.decoder.conv_in.weight.add_(1)
    again.with_student(None).save(folder)
    assert not folder.has(STUDENT)


def test_a_decoder_of_noise_cannot_teach(teacher: DecoderStage) -> None:
    process = replace(teacher.process.config, prediction_type="epsilon")
    noisy = DecoderStage(teacher.network, teacher.clip, process, teacher.settings)
    with pytest.raises(ValueError, match="predicts epsilon, from which few steps cannot be learn"):
        FewStepStage.build(SETTINGS, noisy)


def test_the_bundled_student_ends_where_the_decoders_many_steps_do() -> None:
    stage, batch = Pipeline.from_pretrained(dtype="fp32", device="cpu").decoder, scenes(6)
    text, z_i = stage.clip.text(batch["captions"]), stage.clip.image(batch["images"])

    def made(guidance: Guidance, steps: int) -> Tensor:
        sampling = Sampling(steps, guidance=guidance, **FEW_STEP_SAMPLING)
        return stage.sample(z_i, text, sampling, noise(*range(6)))

    many, one = made(Guidance(3.0), 32), made(Guidance(3.0), 1)
    far = (one - many).square().mean()
    errors = [((made(GUIDED, n) - many).square().mean() / far).item() for n in (1, 2, 4)]
    assert max(errors) < 0.25
