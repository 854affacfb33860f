"""Samplers on Gaussian data, where the optimal denoiser and every marginal are closed-form.

For x_0 ~ N(μ, Σ) all samplers are affine in x_T and in the noise they add. ``moments`` reads off
these maps by running one batch of unit vectors, so that means and covariances of the samples are
exact (float64), with no sampling error.

Shapes: D dimensions of the data, n sampling steps.
"""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from unclip.diffusion.prediction import Prediction
from unclip.diffusion.registry import SAMPLERS
from unclip.diffusion.samplers import ddim, ddpm, dpm_solver_pp_2m, heun, noise_from
from unclip.diffusion.schedules import (
    Schedule,
    spacing_karras,
    spacing_linspace,
    spacing_unclip,
)

torch.set_num_threads(1)
F64 = {"dtype": torch.float64}
MU = torch.tensor([0.5, -1.0, 0.2], **F64)
SIGMA = torch.tensor([[0.8, 0.3, 0.0], [0.3, 0.5, -0.1], [0.0, -0.1, 0.1]], **F64)
EYE = torch.eye(3, **F64)
FUNCTIONS = [row.sampler() for row in SAMPLERS.values()]
SCHEDULE = Schedule.cosine(1000)


def denoiser(schedule, sigma=SIGMA, mu=MU):
    """E[x_0 | x_t] for x_0 ~ N(μ, Σ)."""

    def denoise(x, t):
        alpha, noise = (float(s) for s in schedule.alpha_sigma(t[:1], MU[None]))
        gain = alpha * sigma @ torch.linalg.inv(alpha**2 * sigma + noise**2 * EYE)
        # Not by `@`, whose sums come in another order for other numbers of rows on some CPUs.
        x0 = mu.to(x) + ((x - alpha * mu.to(x))[:, None] * gain.to(x)).sum(dim=-1)
        return Prediction(x0, (x - alpha * x0) / noise)

    return denoise


def moments(sampler, denoise, schedule, timesteps, mean, cov):
    """Exact mean (D,) and covariance (D, D) of the samples for x_T ~ N(mean, cov)."""
    n, d = len(timesteps), len(mean)
    x = torch.zeros(1 + d + n * d, d, **F64)  # 0, the unit vectors, then d rows for each step
    x[1 : 1 + d] = EYE
    drawn = 0

    def noise(like):
        nonlocal drawn
        z = torch.zeros_like(like)
        z[1 + d + drawn * d : 1 + d + (drawn + 1) * d] = EYE
        drawn += 1
        return z

    y = sampler(denoise, x, schedule, timesteps, noise)
    offset, columns, added = y[0], y[1 : 1 + d] - y[0], y[1 + d :] - y[0]
    return offset + mean @ columns, columns.T @ cov @ columns + added.T @ added


def marginal(schedule, t, sigma=SIGMA):
    alpha_bar = float(schedule.alpha_bar(t))
    return math.sqrt(alpha_bar) * MU, alpha_bar * sigma + (1 - alpha_bar) * EYE


def power(matrix, exponent):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**exponent) @ vectors.T


@pytest.mark.parametrize(
    ("sampler", "n", "tolerance"),
    [
        (ddpm, 1000, 0.01),
        (partial(ddim, eta=1.0), 1000, 0.01),
        (partial(ddim, eta=0.5), 1000, 0.01),
        (partial(ddim, eta=0.0), 250, 0.02),
        (dpm_solver_pp_2m, 50, 0.01),
        (heun, 50, 0.01),
        (partial(dpm_solver_pp_2m, eta=0.5), 100, 0.01),
        (partial(dpm_solver_pp_2m, eta=1.0), 100, 0.01),
    ],
    ids=["ddpm", "ddim-1", "ddim-0.5", "ddim-0", "dpm++-0", "heun", "dpm++-0.5", "dpm++-1"],
)
def test_mean_and_covariance(sampler, n, tolerance):
    spacing = spacing_linspace if n <= 100 else spacing_unclip
    spacing = spacing_karras if sampler is heun else spacing
    mean, cov = moments(
        sampler, denoiser(SCHEDULE), SCHEDULE, spacing(SCHEDULE, n), torch.zeros(3, **F64), EYE
    )
    torch.testing.assert_close(mean, MU, atol=tolerance, rtol=0)
    torch.testing.assert_close(cov, SIGMA, atol=tolerance, rtol=0)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_stochastic_samplers_converge_at_order_one(eta):
    def error(n):
        t = spacing_unclip(SCHEDULE, n)
        _, cov = moments(
            partial(ddim, eta=eta), denoiser(SCHEDULE), SCHEDULE, t, *marginal(SCHEDULE, 999)
        )
        return float((cov - SIGMA).norm())

    assert error(500) < 1.2 * error(250) / 2 < 1.2**2 * error(125) / 4


@pytest.mark.parametrize("n", [2, 5, 30])
def test_ddpm_with_the_exact_learned_variance_is_exact_at_any_stride(n):
    """With Var(x_prev | x_t) as learned variance, each strided step samples the true posterior."""
    diagonal = torch.tensor([0.8, 0.3, 0.05], **F64)
    sigma, timesteps = torch.diag(diagonal), spacing_unclip(SCHEDULE, n)
    previous = dict(pairwise([*timesteps.tolist(), -1]))

    def uncertainty(alpha_bar):  # Var(x_0 | x_t)
        return diagonal * (1 - alpha_bar) / (alpha_bar * diagonal + 1 - alpha_bar)

    def denoise(x, t):
        plain = denoiser(SCHEDULE, sigma)(x, t)
        a, before = float(SCHEDULE.alpha_bar(t[0])), float(SCHEDULE.alpha_bar(previous[int(t[0])]))
        if before == 1:
            return Prediction(plain.x0, plain.eps, torch.zeros_like(x))
        beta = 1 - a / before
        small = (1 - before) / (1 - a) * beta
        variance = small + before * (beta / (1 - a)) ** 2 * uncertainty(a)
        fraction = torch.log(variance / small) / math.log(beta / small)
        return Prediction(plain.x0, plain.eps, fraction.expand_as(x))

    mean, cov = moments(ddpm, denoise, SCHEDULE, timesteps, *marginal(SCHEDULE, 999, sigma))
    # The last step, from t = 0, returns the mean and leaves this variance out.
    cov = cov + torch.diag(uncertainty(float(SCHEDULE.alpha_bar(0))))
    torch.testing.assert_close(mean, MU, atol=1e-9, rtol=0)
    torch.testing.assert_close(cov, sigma, atol=1e-9, rtol=0)


def test_ddim_with_eta_one_is_ddpm():
    t = spacing_unclip(SCHEDULE, 10)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), **F64)

    def sample(sampler):
        noise = noise_from(torch.Generator().manual_seed(1))
        return sampler(denoiser(SCHEDULE), x, SCHEDULE, t, noise)

    a, b = sample(ddpm), sample(partial(ddim, eta=1.0))
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def ode_solution(schedule, t, x):
    """Probability-flow ODE from x at t to 0: x_0 = μ + Σ^½ (ᾱ Σ + (1 - ᾱ) I)^-½ (x - sqrt(ᾱ) μ)."""
    mean, cov = marginal(schedule, t)
    return MU + (x - mean) @ (power(SIGMA, 0.5) @ power(cov, -0.5)).T


def logsnr_uniform(n, start=-4.0, end=9.0):
    """A schedule of n timesteps uniform in λ = log(α / σ), so that n alone sets the step size."""
    alpha_bar = torch.sigmoid(2 * torch.linspace(end, start, n, **F64))
    before = torch.cat([torch.ones(1, **F64), alpha_bar[:-1]])
    return Schedule(1 - alpha_bar / before)


@pytest.mark.parametrize("row", [row for row in SAMPLERS.values() if row.order])
@pytest.mark.parametrize("trained", [None, 30], ids=["whole", "between"])
def test_deterministic_samplers_converge_at_their_order(row, trained):
    """At whole timesteps, and between the 30 of a schedule that has no others."""
    sampler = row.sampler()
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), **F64)

    def error(n):
        schedule = logsnr_uniform(trained or n)
        timesteps = torch.linspace(len(schedule) - 1, 0, n, **F64)
        samples = sampler(denoiser(schedule), x, schedule, timesteps)
        return float((samples - ode_solution(schedule, len(schedule) - 1, x)).norm())

    for n in (40, 80, 160):
        assert math.log2(error(n) / error(2 * n)) == pytest.approx(row.order, abs=0.15)


def test_heun_gains_what_its_second_evaluation_costs():
    """Against DDIM with twice as many steps, both at those that it was made for."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), **F64)

    def error(sampler, n):
        t = spacing_karras(SCHEDULE, n)
        exact = ode_solution(SCHEDULE, float(t[0]), x)
        return float((sampler(denoiser(SCHEDULE), x, SCHEDULE, t) - exact).norm())

    assert error(heun, 25) < 0.5 * error(ddim, 50)


def test_dpm_solver_beats_ddim_on_few_cosine_steps():
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), **F64)
    exact, t = ode_solution(SCHEDULE, 999, x), spacing_linspace(SCHEDULE, 20)
    errors = [
        float((sampler(denoiser(SCHEDULE), x, SCHEDULE, t) - exact).norm())
        for sampler in (dpm_solver_pp_2m, ddim)
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_dpm_solver_beats_ddim_where_both_add_noise(eta):
    def error(sampler):
        t = spacing_linspace(SCHEDULE, 20)
        start = marginal(SCHEDULE, 999)
        _, cov = moments(partial(sampler, eta=eta), denoiser(SCHEDULE), SCHEDULE, t, *start)
        return float((cov - SIGMA).norm())

    assert error(dpm_solver_pp_2m) < 0.5 * error(ddim)


@pytest.mark.parametrize(
    "sampler", [*FUNCTIONS, partial(ddim, eta=0.5), partial(dpm_solver_pp_2m, eta=0.5)]
)
def test_drawn_samples_have_the_moments(sampler):
    """The one test with drawn noise: 4096 samples in float32, within five standard errors."""
    noise = noise_from(torch.Generator().manual_seed(0))
    t = (spacing_karras if sampler is heun else spacing_linspace)(SCHEDULE, 100)
    samples = sampler(denoiser(SCHEDULE), noise(torch.empty(4096, 3)), SCHEDULE, t, noise).double()
    exact_mean, exact_cov = moments(
        sampler, denoiser(SCHEDULE), SCHEDULE, t, torch.zeros(3, **F64), EYE
    )
    torch.testing.assert_close(samples.mean(0), exact_mean, atol=5 * 0.9 / 64, rtol=0)
    torch.testing.assert_close(samples.T.cov(), exact_cov, atol=5 * 0.8 * 2**0.5 / 64, rtol=0)
    assert (exact_cov - SIGMA).abs().max() < 0.05


@pytest.mark.parametrize(
    "sampler", [*FUNCTIONS, partial(ddim, eta=0.5), partial(dpm_solver_pp_2m, eta=0.5)]
)
def test_a_seed_gives_the_same_sample_alone_or_in_a_batch(sampler):
    def sample(seeds):
        noise = noise_from([torch.Generator().manual_seed(seed) for seed in seeds])
        x = noise(torch.empty(len(seeds), 3))
        return sampler(denoiser(SCHEDULE), x, SCHEDULE, spacing_unclip(SCHEDULE, 6), noise)

    together = sample([7, 8, 9])
    assert torch.equal(together, torch.cat([sample([7]), sample([8]), sample([9])]))


@pytest.mark.parametrize(("learned", "kept"), [(40.0, 1.0), (-3.0, 0.0), (0.3, 0.3)])
def test_a_learned_variance_stays_between_its_bounds(learned, kept):
    def sample(fraction):
        def denoise(x, t):
            made = denoiser(SCHEDULE)(x, t)
            return Prediction(made.x0, made.eps, torch.full_like(x, fraction))

        noise = noise_from(torch.Generator().manual_seed(0))
        x = noise(torch.empty(4, 3))
        return ddpm(denoise, x, SCHEDULE, spacing_unclip(SCHEDULE, 10), noise)

    assert torch.equal(sample(learned), sample(kept))


def test_noise_has_the_shape_dtype_and_seed():
    x = torch.empty(2, 3, 4, dtype=torch.bfloat16)
    one = noise_from(torch.Generator().manual_seed(0))(x)
    assert one.shape == x.shape
    assert one.dtype == torch.bfloat16
    full = noise_from(torch.Generator().manual_seed(0))(x.float())
    assert torch.equal(one, full.bfloat16())  # the same noise in any precision
    with pytest.raises(ValueError, match="one per sample"):
        noise_from([torch.Generator()])(x)


@pytest.mark.parametrize("sampler", FUNCTIONS)
def test_callback_state_and_single_step(sampler):
    seen = []
    noise = noise_from(torch.Generator().manual_seed(0))
    x = noise(torch.empty(2, 3, dtype=torch.bfloat16))
    steps = spacing_unclip(SCHEDULE, 4)
    result = sampler(
        denoiser(SCHEDULE), x, SCHEDULE, steps, noise, callback=lambda *args: seen.append(args)
    )
    assert result.dtype == torch.float32
    assert [(i, t) for i, t, _, _ in seen] == list(enumerate(steps.tolist()))
    assert torch.equal(seen[-1][2], result)
    torch.testing.assert_close(seen[-1][3].x0, result)
    one = sampler(denoiser(SCHEDULE), x, SCHEDULE, spacing_unclip(SCHEDULE, 1), noise)
    torch.testing.assert_close(one, denoiser(SCHEDULE)(x.float(), torch.tensor([999])).x0)


def test_the_last_step_draws_no_noise():
    draws = []

    def noise(x):
        draws.append(1)
        return torch.zeros_like(x)

    x, t = torch.zeros(1, 3), spacing_unclip(SCHEDULE, 5)
    for sampler in (ddpm, partial(ddim, eta=1.0)):
        sampler(denoiser(SCHEDULE), x, SCHEDULE, t, noise)
    assert len(draws) == 8


@pytest.mark.parametrize("sampler", FUNCTIONS)
@pytest.mark.parametrize("timesteps", [[], [5, 5], [5, 9], [1000, 5], [5, -1]])
def test_bad_timesteps(sampler, timesteps):
    with pytest.raises(ValueError, match="timesteps"):
        sampler(
            denoiser(SCHEDULE),
            torch.zeros(1, 3),
            SCHEDULE,
            torch.tensor(timesteps),
            torch.zeros_like,
        )


@pytest.mark.parametrize("sampler", [ddpm, ddim, partial(ddim, eta=0.5)])
def test_sampling_can_stop_at_a_timestep(sampler):
    """And go on from there; DPM-Solver++ forgets what it remembers of the steps before."""
    x, t = torch.ones(2, 3), spacing_unclip(SCHEDULE, 6)
    whole = sampler(denoiser(SCHEDULE), x, SCHEDULE, t, noise_from(torch.Generator()))
    noise = noise_from(torch.Generator())
    half = sampler(denoiser(SCHEDULE), x, SCHEDULE, t[:3], noise, until=int(t[3]))
    assert torch.equal(sampler(denoiser(SCHEDULE), half, SCHEDULE, t[3:], noise), whole)
    with pytest.raises(ValueError, match="cannot end at 500"):
        sampler(denoiser(SCHEDULE), x, SCHEDULE, torch.tensor([999, 500]), noise, until=500)


def test_bad_eta_and_missing_noise():
    args = denoiser(SCHEDULE), torch.zeros(1, 3), SCHEDULE, spacing_unclip(SCHEDULE, 2)
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="eta"):
            ddim(*args, torch.zeros_like, eta=eta)
        with pytest.raises(ValueError, match="eta"):
            dpm_solver_pp_2m(*args, torch.zeros_like, eta=eta)
    for sampler in (ddpm, partial(ddim, eta=0.5), partial(dpm_solver_pp_2m, eta=0.5)):
        with pytest.raises(ValueError, match="noise"):
            sampler(*args)


@pytest.mark.parametrize("row", SAMPLERS.values(), ids=SAMPLERS)
def test_timesteps_come_on_the_cpu(row):
    """Where they can be read without waiting for the device that computes."""
    seen = []

    def on_meta(x, t):
        seen.append(t)
        return Prediction(x, x)

    x = torch.zeros(2, 3, device="meta")
    row.sampler()(on_meta, x, SCHEDULE, spacing_unclip(SCHEDULE, 3), torch.empty_like)
    assert {t.dtype for t in seen} == {torch.long}
    expected = [[999, 999], *[[500, 500], [0, 0]] * row.evaluations]
    assert sorted(t.tolist() for t in seen) == sorted(expected)
    seen.clear()
    between = torch.tensor([700.5, 3.25], dtype=torch.float64)
    row.sampler()(on_meta, x, SCHEDULE, between, torch.empty_like)
    assert {t.dtype for t in seen} == {torch.float64}
    assert sorted(t.tolist() for t in seen) == sorted(
        [[700.5] * 2, *[[3.25] * 2] * row.evaluations]
    )
