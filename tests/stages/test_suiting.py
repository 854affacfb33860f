"""What a stage that training publishes notes about how it is sampled."""

from dataclasses import replace
from pathlib import Path

import torch

from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings, model_says
from unclip.stages.clip import ClipStage
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderStage
from unclip.stages.diffusion_prior import PriorStage
from unclip.stages.suiting import (
    DEFAULTS,
    TUNED,
    Sampled,
    note,
    of_decoder,
    of_prior,
    of_upsampler,
)
from unclip.stages.upsampler import FIRST, UpsamplerStage
from unclip.storage.folder import ModelFolder


def decoder_of(folder: ModelFolder) -> DecoderStage:
    return DecoderStage.load(folder, FrozenCLIP.load(folder), torch.float32)


def test_each_stage_says_what_suits_it_and_the_pipeline_does_it(tiny_copy: Path) -> None:
    folder = ModelFolder(tiny_copy)
    clip = FrozenCLIP.load(folder)
    assert Pipeline.from_pretrained(tiny_copy).sampling("decoder", Settings()).sampler == "ddpm"
    for stage in (
        PriorStage.load(folder, clip, torch.float32),
        decoder_of(folder),
        UpsamplerStage.load(folder, FIRST, torch.float32),
    ):
        note(folder, stage)
    pipe = Pipeline.from_pretrained(tiny_copy)
    for name, *said in (
        ("prior", "ddim", 1.0),
        ("decoder", "dpm++", 0.0),
        ("super_res", "ddim", 0.0),
    ):
        sampling = pipe.sampling(name, Settings())
        assert [sampling.sampler, sampling.eta] == said, name
    assert pipe.sampling("prior", Settings()).guidance.scale == 1.0
    assert pipe.sampling("decoder", Settings()).guidance.scale == 2.0
    assert pipe.sampling("decoder", Settings(sampler="ddpm")).sampler == "ddpm"
    assert pipe.sampling("decoder", Settings(steps="fast")).sampler == "dpm++"


def test_steps_go_with_the_network_that_they_were_measured_with(tiny_copy: Path) -> None:
    folder = ModelFolder(tiny_copy)
    steps = {f"{stage}_num_inference_steps": 3 for stage in ("prior", "decoder", "super_res")}
    folder.update_index({DEFAULTS: steps})
    note(folder, decoder_of(folder))
    said = folder.index()[DEFAULTS]
    assert {name for name in said if "steps" in name} == steps.keys() - {
        "decoder_num_inference_steps"
    }


def test_what_never_missed_its_condition_is_not_guided(tiny_copy: Path) -> None:
    stage = decoder_of(ModelFolder(tiny_copy))
    for changed, scale in (
        ({}, 2.0),
        ({"drop_image": 0.0}, 1.0),
        ({"drop_text": 0.0}, 1.0),
        ({"drop_image": 0.0, "condition": "caption"}, 2.0),
    ):
        stage.settings = replace(stage.settings, **changed)
        assert stage.suits()["decoder_guidance_scale"] == scale, changed
        stage.settings = replace(stage.settings, drop_image=0.1, drop_text=0.5)


def test_a_stage_that_takes_anothers_place_takes_its_defaults_away(tiny_copy: Path) -> None:
    folder = ModelFolder(tiny_copy)
    theirs = {"prior_guidance_scale": 2.5, "eta": 0.5, "super_res_eta": 0.25}
    tuned = {"decoder_guidance_scale": 6.0, "prior_guidance_scale": 2.5}
    folder.update_index(
        {DEFAULTS: theirs | {"decoder_guidance_scale": 6.0}, TUNED: {"n": 9, "says": tuned}}
    )
    stage = decoder_of(folder)
    note(folder, stage, anew=False)  # the same run, later
    assert folder.index()[DEFAULTS]["decoder_guidance_scale"] == 6.0
    note(folder, stage)
    assert folder.index()[DEFAULTS] == theirs | stage.suits()
    assert folder.index()[TUNED] == {"n": 9, "says": {"prior_guidance_scale": 2.5}}


def test_clip_is_never_sampled(tiny_copy: Path) -> None:
    assert not hasattr(ClipStage, "suits")
    folder = ModelFolder(tiny_copy)
    note(folder, object())
    assert DEFAULTS not in folder.index()
    assert isinstance(decoder_of(folder), Sampled)


def test_all_that_stages_say_may_be_said() -> None:
    said = of_prior(True) | of_decoder(False) | of_upsampler("super_res")
    said |= of_upsampler("super_res_1024") | {"autoregressive_prior_guidance_scale": 1.0}
    assert model_says(said, "here") == said
