"""What a process draws, plans and samples; what is chosen about sampling."""

import pytest
import torch
from torch import Tensor

from unclip.diffusion.guidance import Guidance
from unclip.diffusion.prediction import Prediction
from unclip.diffusion.process import Diffusion
from unclip.diffusion.registry import SAMPLERS
from unclip.diffusion.samplers import noise_from
from unclip.diffusion.sampling import Plan, Sampling
from unclip.diffusion.schedules import DiffusionConfig, Schedule, spacing_trailing


def test_sampling_refuses_what_there_is_not() -> None:
    with pytest.raises(ValueError, match=r"unknown sampler 'ddmp'; did you mean 'ddpm'\?"):
        Sampling(sampler="ddmp")
    with pytest.raises(ValueError, match="steps is 0; it must be between 1"):
        Sampling(0)
    with pytest.raises(ValueError, match="reuse is 0; it must be between 1"):
        Sampling(reuse=0)
    with pytest.raises(ValueError, match="unknown spacing 'even'"):
        Sampling(spacing="even")
    with pytest.raises(ValueError, match="threshold is 0"):
        Sampling(threshold=0)


@pytest.mark.parametrize("beta_schedule", ["squaredcos_cap_v2", "linear"])
@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "heun"])
def test_the_interval_of_guidance_is_one_of_noise_levels(sampler: str, beta_schedule: str) -> None:
    process = Diffusion(DiffusionConfig(beta_schedule=beta_schedule))

    def guided(guidance: Guidance) -> frozenset[float]:
        return process.plan(Sampling(25, sampler, guidance)).active

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
    process = Diffusion(DiffusionConfig())
    x0 = torch.ones(4000, 2)
    x_t, t, noise = process.draw(x0, torch.Generator().manual_seed(0))
    assert t.min() >= 0
    assert t.max() < 1000
    assert t.float().mean().item() == pytest.approx(499.5, abs=20)
    torch.testing.assert_close(x_t, process.schedule.q_sample(x0, t, noise))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_perfect_denoiser_is_followed_to_the_data(sampler: str) -> None:
    process = Diffusion(DiffusionConfig())
    data = torch.linspace(-1, 1, 12).view(2, 6)

    def denoiser(x: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = process.schedule.alpha_sigma(t, x)
        return Prediction(data, (x - alpha * data) / sigma)

    noise = noise_from(torch.Generator().manual_seed(0))
    made = process.sample(denoiser, torch.empty(2, 6), Sampling(8, sampler, eta=0.5), noise)
    torch.testing.assert_close(made, data, atol=1e-3, rtol=1e-3)


def test_a_timestep_that_was_not_planned_is_guided_as_its_step_is() -> None:
    plan = Plan((900, 500, 100.5), frozenset({500}))
    assert [t for t in (999, 900, 700.5, 500, 499.5, 101, 100.5, 3) if plan.guided(t)] == [
        500, 499.5, 101,
    ]  # fmt: skip
    assert Plan((900, 500), frozenset({900})).guided(999)


def test_another_spacing_and_threshold_than_the_sampler_s_and_the_process_s() -> None:
    process = Diffusion(DiffusionConfig(prediction_type="sample"))
    trailing = process.timesteps(Sampling(5, "dpm++", spacing="trailing"))
    assert torch.equal(trailing, spacing_trailing(Schedule.cosine(), 5))
    x0 = torch.linspace(-4, 4, 9)[None]
    t = torch.tensor([500])
    assert process.predict(x0, x0, t).x0.tolist() == x0.clamp(-1, 1).tolist()
    denoiser = process.denoiser(lambda x, _: x, threshold=0.5)
    assert denoiser(x0, t).x0.tolist() == (x0.clamp(-2, 2) / 2).tolist()
