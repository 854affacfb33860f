"""Samplers that evaluate between the planned timesteps, through whole stages.

The one here is DPM-Solver-2 (Lu et al., arXiv 2206.00927, algorithm 1), whose second evaluation is
halfway in log(α / σ), at a t that no training saw and no plan holds. It comes from outside of the
package, as one row.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.diffusion.test_samplers import F64, denoiser, logsnr_uniform, ode_solution
from tests.tiny import noise
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.prediction import Denoiser, shared_timestep
from unclip.diffusion.registry import SAMPLERS, SamplerRow
from unclip.diffusion.samplers import after_step, steps_between, timesteps_of
from unclip.diffusion.sampling import Sampling
from unclip.diffusion.schedules import Schedule
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderStage
from unclip.stages.diffusion_prior import PriorStage
from unclip.stages.upsampler import UpsamplerStage
from unclip.storage.folder import ModelFolder

ASKED: list[float] = []


def dpm_solver_2(
    denoiser: Denoiser, x: Tensor, schedule: Schedule, timesteps: Tensor, *_: Any,
    until: float = -1, callback: Any = None,
) -> Tensor:  # fmt: skip
    """In x / α and s = σ / α: a step with the slope ε at sqrt(s s_prev), half a step from s."""
    for s in steps_between(schedule, timesteps, until):
        prediction = denoiser(x, s.times(x))
        ASKED.append(s.t)
        if s.last:
            x = prediction.x0
        else:
            level, level_prev = (math.sqrt(1 / a - 1) for a in (s.alpha_bar, s.alpha_bar_prev))
            between = timesteps_of(x, float(schedule.timestep(math.sqrt(level * level_prev))))
            ASKED.append(shared_timestep(between))
            alpha, sigma = schedule.alpha_sigma(between, x)
            half = denoiser(alpha * prediction.x0 + sigma * prediction.eps, between)
            there = x / math.sqrt(s.alpha_bar) + (level_prev - level) * half.eps
            x = math.sqrt(s.alpha_bar_prev) * there
        x = after_step(callback, s.i, s.t, x, prediction)
    return x


@pytest.fixture(autouse=True)
def _row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = SamplerRow(dpm_solver_2, "linspace", order=2, evaluations=2)
    monkeypatch.setitem(SAMPLERS, "dpm2", row)
    ASKED.clear()


@pytest.fixture(scope="module")
def stages(tiny_model: Path) -> tuple[PriorStage, DecoderStage, UpsamplerStage]:
    folder = ModelFolder(tiny_model)
    clip = FrozenCLIP.load(folder)
    upsampler = UpsamplerStage.load(folder, "super_res_first")
    return PriorStage.load(folder, clip), DecoderStage.load(folder, clip), upsampler


def test_it_is_of_order_two() -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), **F64)

    def error(n: int) -> float:
        schedule = logsnr_uniform(n)
        made = dpm_solver_2(denoiser(schedule), x, schedule, torch.arange(n).flip(0))
        return float((made - ode_solution(schedule, n - 1, x)).norm())

    assert math.log2(error(40) / error(80)) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("sampler", ["dpm2", "heun"])
@pytest.mark.parametrize("guidance", [Guidance(), Guidance(3.0), Guidance(3.0, (0.5, 5.0))])
def test_stages_answer_at_any_timestep(
    sampler: str, guidance: Guidance, stages: tuple[PriorStage, DecoderStage, UpsamplerStage]
) -> None:
    """With features reused, too: they are those of the planned step."""
    prior, decoder, upsampler = stages
    text = prior.clip.text(["a red circle", "a blue star above a heart"])
    sampling = Sampling(5, sampler, guidance, reuse=2)
    z_i = prior.sample(text, sampling, noise(1, 2), candidates=1)
    small = decoder.sample(z_i, text, sampling, noise(1, 2))
    large = upsampler.sample(small, sampling, noise(1, 2))
    assert all(bool(x.isfinite().all()) for x in (z_i, small, large))
    if sampler == "dpm2":
        assert len(ASKED) == 3 * 9
        assert any(t != int(t) for t in ASKED)


def test_more_steps_come_to_the_same(
    stages: tuple[PriorStage, DecoderStage, UpsamplerStage],
) -> None:
    """Both two-evaluation samplers solve one equation, whatever timesteps they ask at."""
    prior = stages[0]
    text = prior.clip.text(["a red circle"])

    def sample(sampler: str, steps: int) -> Tensor:
        sampling = Sampling(steps, sampler, Guidance(2.0), spacing="karras")
        return prior.sample(text, sampling, noise(1), candidates=1)

    exact = sample("heun", 200)
    for sampler in ("dpm2", "heun"):
        few, many = ((sample(sampler, n) - exact).norm() for n in (10, 40))
        assert many < 0.2 * few
