"""Inpainting on Gaussian data, where what is unknown has a conditional distribution in closed form.

As in ``test_samplers``, all is affine in the noise: one batch of unit vectors gives exact moments.
"""

from functools import partial

import pytest
import torch

from tests.diffusion.test_samplers import EYE, F64, MU, SCHEDULE, SIGMA, denoiser
from unclip.diffusion.inpainting import Known, inpaint
from unclip.diffusion.registry import SAMPLERS
from unclip.diffusion.samplers import ddim, ddpm, dpm_solver_pp_2m, noise_from
from unclip.diffusion.schedules import spacing_linspace, spacing_unclip

ETA = partial(ddim, eta=1.0)
KNOWN = Known(torch.tensor([[1.2, 99.0, 99.0]], **F64), torch.tensor([[False, True, True]]))
NOTHING = Known(torch.full((1, 3), 99.0, **F64), torch.ones(1, 3, dtype=torch.bool))


def normal(*seeds):
    return noise_from([torch.Generator().manual_seed(seed) for seed in seeds])


def moments(sampler, timesteps, **options):
    """Exact mean (3,) and covariance (3, 3) of the samples."""
    draws = 0

    def sample(x, noise):
        return inpaint(sampler, denoiser(SCHEDULE), x, KNOWN, SCHEDULE, timesteps, noise, **options)

    def counted(x):
        nonlocal draws
        draws += 1
        return torch.zeros_like(x)

    sample(torch.zeros(1, 3, **F64), counted)
    x = torch.zeros(1 + 3 * (1 + draws), 3, **F64)  # 0, then the unit vectors of each draw
    x[1:4] = EYE
    rows = iter(range(4, len(x), 3))

    def unit(like):
        z, row = torch.zeros_like(like), next(rows)
        z[row : row + 3] = EYE
        return z

    y = sample(x, unit)
    return y[0], (y[1:] - y[0]).T @ (y[1:] - y[0])


def errors(sampler, resamples, steps=50):
    """Of mean and covariance of the unknown part, given the known one."""
    gain = SIGMA[1:, :1] / SIGMA[0, 0]
    mean = MU[1:] + gain[:, 0] * (KNOWN.x0[0, 0] - MU[0])
    cov = SIGMA[1:, 1:] - gain @ SIGMA[:1, 1:]
    spacing = spacing_linspace if sampler is dpm_solver_pp_2m else spacing_unclip
    found = moments(sampler, spacing(SCHEDULE, steps), resamples=resamples)
    return float((found[0][1:] - mean).norm()), float((found[1][1:, 1:] - cov).norm())


def test_the_conditional_distribution_is_approached() -> None:
    means, covs = zip(*(errors(dpm_solver_pp_2m, r) for r in (1, 4, 16)), strict=True)
    assert means[0] > 0.1  # without resampling the parts do not agree
    assert means[1] < means[0] / 2
    assert means[2] < means[1] / 2
    assert covs[0] > 0.03
    assert max(covs[1:]) < 0.015


@pytest.mark.parametrize("sampler", [ddpm, ddim, ETA], ids=["ddpm", "ddim", "ddim-1"])
def test_the_conditional_mean_is_approached_by_every_sampler(sampler) -> None:
    means = [errors(sampler, r, 25)[0] for r in (1, 4, 16)]
    assert means[0] > 0.1
    assert means[1] < means[0] / 2
    assert means[2] < means[1] / 2


@pytest.mark.parametrize("sampler", [*(row.sampler() for row in SAMPLERS.values()), ETA])
@pytest.mark.parametrize("resamples", [1, 3])
def test_what_is_known_is_kept_exactly(sampler, resamples) -> None:
    known = Known(torch.tensor([[0.3, 0.1, -0.7]]), torch.tensor([[False, True, False]]))
    x = normal(1, 2)(torch.empty(2, 3))
    y = inpaint(
        sampler, denoiser(SCHEDULE), x, known, SCHEDULE, spacing_unclip(SCHEDULE, 7), normal(3, 4),
        resamples=resamples, jump=2,
    )  # fmt: skip
    assert torch.equal(y[:, [0, 2]], known.x0[:, [0, 2]].expand(2, -1))
    assert y[0, 1] != y[1, 1]


@pytest.mark.parametrize("sampler", [*(row.sampler() for row in SAMPLERS.values()), ETA])
def test_nothing_known_and_no_resampling_is_the_sampler(sampler) -> None:
    x, t = normal(1, 2)(torch.empty(2, 3)), spacing_linspace(SCHEDULE, 9)
    plain = sampler(denoiser(SCHEDULE), x, SCHEDULE, t, normal(3, 4))
    y = inpaint(sampler, denoiser(SCHEDULE), x, NOTHING, SCHEDULE, t, normal(3, 4))
    assert torch.equal(y, plain)


def test_a_seed_gives_the_same_sample_alone_or_in_a_batch() -> None:
    def sample(*seeds):
        noise = normal(*seeds)
        x, t = noise(torch.empty(len(seeds), 3)), spacing_unclip(SCHEDULE, 6)
        return inpaint(ddpm, denoiser(SCHEDULE), x, KNOWN, SCHEDULE, t, noise, resamples=2, jump=2)

    assert torch.equal(sample(7, 8), torch.cat([sample(7), sample(8)]))


def test_steps_are_counted_and_jumps_lead_back() -> None:
    seen = []
    inpaint(
        ddpm, denoiser(SCHEDULE), torch.zeros(1, 3), KNOWN, SCHEDULE, torch.tensor([900, 500, 100]),
        normal(0), resamples=2, jump=2, callback=lambda i, t, *_: seen.append((i, t)),
    )  # fmt: skip
    assert seen == list(enumerate([900, 500, 900, 500, 100, 100]))


@pytest.mark.parametrize("options", [{"resamples": 0}, {"jump": 0}])
def test_bad_numbers(options) -> None:
    with pytest.raises(ValueError, match="take at least 1"):
        inpaint(
            ddpm, denoiser(SCHEDULE), torch.zeros(1, 3), KNOWN, SCHEDULE, torch.tensor([5]),
            normal(0), **options,
        )  # fmt: skip
