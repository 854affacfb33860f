"""Presets: what each stage gets from them, and what overrides them."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unclip import Pipeline, Settings
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.sampling import Sampling
from unclip.pipeline.inpainting import RESAMPLES
from unclip.pipeline.settings import PRESETS, Preset
from unclip.stages.decoder import GuidanceStudent
from unclip.stages.decoder.student import FewStepStudent

ROW = Preset(
    {"steps": 3, "sampler": "dpm++"},
    {"steps": 4, "guidance_interval": (0.3, 5.0), "reuse": 2},
    {"steps": 2, "sampler": "ddpm", "reuse": 3},
    {"steps": 1},
)


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")


def test_each_stage_is_sampled_as_its_row_says(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "fast", ROW)
    monkeypatch.setitem(pipe.defaults, "sampler", "ddim")
    settings = Settings("fast", prior_guidance_scale=2.0, decoder_guidance_scale=3.0)
    assert pipe.sampling("prior", settings) == Sampling(3, "dpm++", Guidance(2.0))
    decoder = Sampling(4, "ddim", Guidance(3.0, (0.3, 5.0)), reuse=2, resamples=RESAMPLES)
    assert pipe.sampling("decoder", settings) == decoder
    assert pipe.sampling("super_res", settings) == Sampling(2, "ddpm", reuse=3)
    assert pipe.sampling("super_res_1024", settings) == Sampling(1, "ddim")
    assert pipe.evaluations(settings) == 3 + 4 + 2


def test_settings_override_the_preset(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "fast", ROW)
    everything = (0.0, math.inf)
    settings = Settings(
        "fast", 5, 6, 7, 1.0, 3.0, "ddim", guidance_interval=everything, reuse=1
    )  # fmt: skip
    assert pipe.sampling("prior", settings) == Sampling(5, "ddim", Guidance(1.0, everything))
    decoder = Sampling(6, "ddim", Guidance(3.0, everything), resamples=RESAMPLES)
    assert pipe.sampling("decoder", settings) == decoder
    assert pipe.sampling("super_res", settings) == Sampling(7, "ddim")
    assert settings.changed()["reuse"] == 1


def test_a_row_says_how_much_noise_its_samplers_add(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "fast", replace(ROW, prior={**ROW.prior, "eta": 0.0}))
    monkeypatch.setitem(pipe.defaults, "eta", 1.0)
    assert pipe.sampling("prior", Settings("fast")).eta == 0.0
    assert pipe.sampling("super_res", Settings("fast")).eta == 1.0
    assert pipe.sampling("prior", Settings("fast", eta=0.5)).eta == 0.5
    assert pipe.sampling("prior", Settings("fast", sampler="ddim")).eta == 1.0  # not the row's


def test_decoders_with_a_student_have_a_row_of_their_own(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(ROW, decoder_distilled={"steps": 6, "sampler": "dpm++"})
    monkeypatch.setitem(PRESETS, "fast", row)
    settings = Settings("fast", decoder_guidance_scale=3.0)
    plain = Sampling(
        4, pipe.defaults["sampler"], Guidance(3.0, (0.3, 5.0)), reuse=2, resamples=RESAMPLES
    )
    assert pipe.sampling("decoder", settings) == plain
    with pytest.raises(ValueError, match="this model has no decoder_distilled"):
        pipe("a star", settings=replace(settings, guidance_kind="distilled"))
    student = GuidanceStudent(pipe.decoder.network.decoder, (1.0, 4.0))
    monkeypatch.setattr(pipe.decoder, "student", student)
    distilled = Sampling(6, "dpm++", Guidance(3.0, distilled=True), resamples=RESAMPLES)
    assert pipe.sampling("decoder", settings) == distilled
    assert pipe.sampling("prior", settings) == Sampling(
        3, "dpm++", pipe.sampling("prior", settings).guidance
    )
    for other in ({"guidance_kind": "branches"}, {"decoder_guidance_scale": 5.0}):
        assert not pipe.sampling("decoder", replace(settings, **other)).guidance.distilled
        assert pipe.sampling("decoder", replace(settings, **other)).steps == 4
    with pytest.raises(ValueError, match="knows scales from 1 to 4"):
        pipe.evaluations(replace(settings, guidance_kind="distilled", decoder_guidance_scale=5.0))
    default = Settings(decoder_guidance_scale=3.0)
    assert not pipe.sampling("decoder", default).guidance.distilled
    asked = pipe.sampling("decoder", replace(default, guidance_kind="distilled"))
    assert (asked.steps, asked.guidance) == (25, Guidance(3.0, distilled=True))


def test_a_preset_gives_upsamplers_that_predict_noise_two_steps(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "fast", replace(ROW, super_res={"steps": 1, "sampler": "ddim"}))
    assert pipe.sampling("super_res", Settings("fast")).steps == 1
    process = pipe.upsamplers[0].process
    noisy = replace(process.config, prediction_type="epsilon")
    monkeypatch.setattr(process, "config", noisy)
    assert pipe.sampling("super_res", Settings("fast")).steps == 2
    assert pipe.sampling("super_res", Settings("fast", super_res_num_inference_steps=1)).steps == 1


def test_the_published_layouts_values_are_exact_and_the_default(pipe: Pipeline) -> None:
    for stage, steps in (("prior", 25), ("decoder", 25), ("super_res", 7), ("super_res_1024", 7)):
        for name in ("default", "paper"):
            sampling = pipe.sampling(stage, Settings(name))
            assert (sampling.guidance.interval, sampling.reuse) == (None, 1)
            assert sampling.sampler == pipe.defaults["sampler"]
        assert pipe.sampling(stage, Settings()).steps == steps


def test_only_default_yields_to_what_a_model_says(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pipe.defaults, "decoder_num_inference_steps", 15)
    monkeypatch.setitem(pipe.defaults, "super_res_num_inference_steps", 1)
    assert pipe.sampling("decoder", Settings()).steps == 15
    assert pipe.sampling("decoder", Settings(decoder_num_inference_steps=9)).steps == 9
    assert pipe.sampling("decoder", Settings("fast")).steps == PRESETS["fast"].decoder["steps"]
    assert pipe.sampling("prior", Settings()).steps == 25
    assert pipe.sampling("super_res", Settings()).steps == 1
    assert pipe.sampling("super_res_1024", Settings()).steps == 7
    monkeypatch.setitem(pipe.defaults, "super_res_1024_num_inference_steps", 3)
    assert pipe.sampling("super_res_1024", Settings()).steps == 3
    process = pipe.upsamplers[0].process
    monkeypatch.setattr(process, "config", replace(process.config, prediction_type="epsilon"))
    assert pipe.sampling("super_res", Settings()).steps == 2


def test_a_student_of_few_steps_takes_its_own_number_not_the_models(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = FewStepStudent(pipe.decoder.network.decoder, (1.0, 4.0), (4, 2, 1))
    monkeypatch.setattr(pipe.decoder, "student", student)
    monkeypatch.setitem(pipe.defaults, "decoder_num_inference_steps", 15)
    asked = Settings(guidance_kind="distilled", decoder_guidance_scale=3.0)
    assert pipe.sampling("decoder", asked).steps == 4


def test_latents_reuse_nothing_unless_they_are_told_to() -> None:
    assert Settings("fast").for_reconstruction(9).reuse == 1
    assert Settings("fast", reuse=2).for_reconstruction(9).reuse == 2
    assert Settings().for_reconstruction(9).decoder_num_inference_steps == 9


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"steps": 3, "interval": (0, 1)}, "unknown value 'interval'"),
        ({"steps": 3, "guidance_scale": 2}, "unknown value 'guidance_scale'"),
        ({"steps": 3, "eta": 2}, "eta is 2"),
        ({"sampler": "ddim"}, "the row of decoder says no steps"),
        ({"steps": 0}, "decoder_num_inference_steps is 0"),
    ],
)
def test_rows_that_make_no_sense(row: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(ROW, decoder=row)


def test_every_knob_reaches_its_stage(pipe: Pipeline) -> None:
    decoder = pipe.sampling(
        "decoder", Settings(guidance_rescale=0.5, dynamic_threshold=0.9, spacing="trailing")
    )
    assert (decoder.guidance.rescale, decoder.threshold, decoder.spacing) == (0.5, 0.9, "trailing")
    codes = Settings(prior_temperature=0.5, prior_top_p=0.8, prior_dot_quantile=0.7)
    prior = pipe.sampling("prior", codes)
    assert (prior.temperature, prior.top_p, prior.threshold) == (0.5, 0.8, None)
    assert prior.dot_quantile == 0.7
    plain = pipe.sampling("decoder", Settings())
    assert (plain.guidance.rescale, plain.threshold, plain.spacing) == (0.0, None, None)


def test_knobs_change_images_and_their_defaults_change_no_bit(tiny_priors: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_priors, dtype="fp32", device="cpu")
    quick = {"size": 16, "decoder_num_inference_steps": 2, "sampler": "ddim", "eta": 0.0}
    quick |= {"prior": "autoregressive", "decoder_guidance_scale": 3.0, "output_type": "tensor"}
    plain = pipe("a star", **quick).images
    for neutral in (
        {"guidance_rescale": 0}, {"spacing": "unclip"}, {"prior_temperature": 1},
        {"prior_top_p": 1}, {"prior_dot_quantile": 0.5},
    ):  # fmt: skip
        assert torch.equal(pipe("a star", **quick, **neutral).images, plain), neutral
    for other in (
        *({"guidance_rescale": 1}, {"spacing": "leading"}, {"spacing": "trailing"}),
        *({"dynamic_threshold": 1}, {"prior_temperature": 0}, {"prior_top_p": 0.01}),
    ):
        assert not torch.equal(pipe("a star", **quick, **other).images, plain), other
