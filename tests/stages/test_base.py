"""Sampling settings, the guided network and the scheduler's file."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unclip.diffusion.guidance import Guidance
from unclip.diffusion.schedules import DiffusionConfig
from unclip.stages.base import Process, Sampling, guide, scheduler_from_json, scheduler_json
from unclip.storage.folder import ModelFolder


def test_sampling_refuses_what_there_is_not() -> None:
    with pytest.raises(ValueError, match=r"unknown sampler 'ddmp'; did you mean 'ddpm'\?"):
        Sampling(sampler="ddmp")
    with pytest.raises(ValueError, match="steps is 0; it must be between 1"):
        Sampling(0)
    with pytest.raises(ValueError, match="reuse is 0; it must be between 1"):
        Sampling(reuse=0)


def test_guidance_asks_for_both_branches_only_where_it_must() -> None:
    asked: list[bool] = []

    def network(x: Tensor, t: Tensor, both: bool) -> Tensor:
        asked.append(both)
        return torch.cat([x[: len(x) // 2] + 1, x[len(x) // 2 :] - 1]) if both else x + 1

    x = torch.zeros(2, 3)
    t = torch.tensor([5, 5])
    assert torch.equal(guide(network, Guidance(1.0), (), 3)(x, t), x + 1)
    assert torch.equal(guide(network, Guidance(0.0), (5,), 3)(x, t), x - 1)
    assert torch.equal(guide(network, Guidance(3.0), (5,), 3)(x, t), x + 5)
    assert torch.equal(guide(network, Guidance(3.0), (4, 6), 3)(x, t), x + 1)
    assert asked == [False, True, True, False]


@pytest.mark.parametrize("beta_schedule", ["squaredcos_cap_v2", "linear"])
@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_the_interval_of_guidance_is_one_of_noise_levels(sampler: str, beta_schedule: str) -> None:
    process = Process(DiffusionConfig(beta_schedule=beta_schedule))

    def guided(guidance: Guidance) -> frozenset[int]:
        return process.guided(Sampling(25, sampler, guidance))

    times = process.timesteps(Sampling(25, sampler)).tolist()
    everything = (0.0, float("inf"))
    assert guided(Guidance(3.0)) == guided(Guidance(3.0, everything)) == frozenset(times)
    assert guided(Guidance(1.0, everything)) == frozenset()
    some = guided(Guidance(3.0, (0.5, 4.0)))
    alpha_bars = process.schedule.alpha_bar(torch.tensor(times)).tolist()
    sigmas = [((1 - a) / a) ** 0.5 for a in alpha_bars]
    assert some == {t for t, s in zip(times, sigmas, strict=True) if 0.5 <= s <= 4.0}
    assert 0 < len(some) < 25


def test_training_noise_follows_the_schedule() -> None:
    process = Process(DiffusionConfig())
    x0 = torch.ones(4000, 2)
    x_t, t, noise = process.draw(x0, torch.Generator().manual_seed(0))
    assert t.min() >= 0
    assert t.max() < 1000
    assert t.float().mean().item() == pytest.approx(499.5, abs=20)
    torch.testing.assert_close(x_t, process.schedule.q_sample(x0, t, noise))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_a_perfect_denoiser_is_followed_to_the_data(sampler: str) -> None:
    from unclip.diffusion.prediction import Prediction
    from unclip.diffusion.samplers import noise_from

    process = Process(DiffusionConfig())
    data = torch.linspace(-1, 1, 12).view(2, 6)

    def denoiser(x: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = process.schedule.alpha_sigma(t, x)
        return Prediction(data, (x - alpha * data) / sigma)

    noise = noise_from(torch.Generator().manual_seed(0))
    made = process.sample(denoiser, torch.empty(2, 6), Sampling(8, sampler, eta=0.5), noise)
    torch.testing.assert_close(made, data, atol=1e-3, rtol=1e-3)


def test_the_scheduler_goes_there_and_back(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    config = DiffusionConfig(prediction_type="sample", clip_sample_range=5.0)
    files = {"scheduler_config.json": scheduler_json(config)}
    folder.save("prior_scheduler", ("diffusers", "UnCLIPScheduler"), files)
    assert scheduler_from_json(folder, "prior_scheduler") == config
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UnCLIPScheduler.from_pretrained(tmp_path / "prior_scheduler")
    assert theirs.config.prediction_type == "sample"
    files["scheduler_config.json"]["beta_schedules"] = "linear"
    folder.save("prior_scheduler", ("diffusers", "UnCLIPScheduler"), files)
    with pytest.raises(ValueError, match="unknown key 'beta_schedules'; did you mean"):
        scheduler_from_json(folder, "prior_scheduler")
