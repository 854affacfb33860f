import math
from typing import get_args

import pytest
import torch

from unclip.diffusion.losses import (
    LossConfig,
    discretised_gaussian_nll,
    normal_kl,
    snr_weights,
    vlb_terms,
)
from unclip.diffusion.process import Diffusion
from unclip.diffusion.schedules import DiffusionConfig, PredictionType, Schedule

SCHEDULE = Schedule.cosine(1000)


def batch(n=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(n, 3, 4, 4, generator=generator, dtype=dtype) * 2 - 1
    noise = torch.randn(n, 3, 4, 4, generator=generator, dtype=dtype)
    return x0, noise, torch.tensor([0, 1, 250, 500, 998, 999])[:n]


@pytest.mark.parametrize("kind", get_args(PredictionType))
def test_mse(kind):
    x0, noise, t = batch()
    process = Diffusion(DiffusionConfig(prediction_type=kind))
    losses = process.loss(process.target(x0, noise, t) + 0.5, x0, noise, t)
    assert set(losses) == {"loss", "mse"}
    assert float(losses["loss"]) == pytest.approx(0.25, rel=1e-5)
    assert float(losses["mse"]) == pytest.approx(0.25, rel=1e-5)


def test_truncated_weights_do_not_suit_epsilon():
    """At t = 999 of the cosine schedule they would be 1 / SNR, four hundred million."""
    weights = LossConfig("truncated_snr")
    x0, noise, t = batch()
    for kind in get_args(PredictionType):
        process = Diffusion(DiffusionConfig(prediction_type=kind), weights)
        if kind == "epsilon":
            with pytest.raises(ValueError, match="truncated_snr does not suit networks that pred"):
                process.loss(noise, x0, noise, t)
        else:
            process.loss(noise, x0, noise, t)


def test_min_snr_values():
    snr = torch.tensor([0.5, 5.0, 20.0])
    torch.testing.assert_close(snr_weights(snr, "sample"), torch.tensor([0.5, 5.0, 5.0]))
    torch.testing.assert_close(snr_weights(snr, "sample", least=1.0), torch.tensor([1.0, 5.0, 5.0]))
    torch.testing.assert_close(snr_weights(snr, "epsilon"), torch.tensor([1.0, 1.0, 0.25]))
    torch.testing.assert_close(
        snr_weights(snr, "v_prediction"), torch.tensor([1 / 3, 5 / 6, 5 / 21])
    )


def test_min_snr_loss_is_the_same_for_every_prediction_type():
    """One x_0 error, seen as an error of ε, of x_0 or of v, weighs the same."""
    x0, noise, t = batch(5, torch.float64)
    x_t = SCHEDULE.q_sample(x0, t, noise)
    alpha, sigma = SCHEDULE.alpha_sigma(t, x0)
    x0_pred = x0 + 0.1
    outputs = {
        "sample": x0_pred,
        "epsilon": (x_t - alpha * x0_pred) / sigma,
        "v_prediction": (alpha * x_t - x0_pred) / sigma,
    }
    loss = LossConfig(weighting="min_snr", min_snr_gamma=3.0)

    def value(kind):
        process = Diffusion(DiffusionConfig(prediction_type=kind), loss)
        return float(process.loss(outputs[kind], x0, noise, t)["loss"])

    values = [value(kind) for kind in outputs]
    expected = 0.01 * SCHEDULE.snr(t).clamp(max=3).mean()
    assert values == pytest.approx([float(expected)] * 3)


def test_normal_kl():
    p, q = torch.distributions.Normal(0.3, 0.7), torch.distributions.Normal(-0.2, 1.5)
    mine = normal_kl(*torch.tensor([0.3, math.log(0.49), -0.2, math.log(2.25)]))
    torch.testing.assert_close(mine, torch.distributions.kl_divergence(p, q))


@pytest.mark.parametrize("std", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("mean", [-1.3, 0.003, 0.9])
def test_discretised_likelihood_sums_to_one(mean, std):
    bins = torch.linspace(-1, 1, 256)
    nll = discretised_gaussian_nll(bins, torch.tensor(mean), torch.tensor(std).log())
    assert float((-nll).exp().sum()) == pytest.approx(1.0, abs=1e-4)


def test_discretised_likelihood_far_from_the_mean_is_finite_with_gradient():
    log_std = torch.full((3,), -5.0, requires_grad=True)
    nll = discretised_gaussian_nll(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor(0.9), log_std)
    nll.sum().backward()
    assert nll.isfinite().all()
    assert log_std.grad.isfinite().all()
    assert log_std.grad[1] < 0  # a larger deviation would explain it better


@pytest.mark.parametrize("t", [1, 100, 900])
def test_vlb_of_the_exact_gaussian_denoiser(t):
    """For x_0 ~ N(0, s²) with the exact mean and variance v, E[L_t] = ½ log2(v / β̃).

    L_t depends on x_0 through (x_0 - E[x_0 | x_t])² alone, whose mean is Var(x_0 | x_t): a batch
    whose every element lies one standard deviation off has the expectation exactly.
    """
    s2, alpha_bar, before = 0.3, float(SCHEDULE.alpha_bar(t)), float(SCHEDULE.alpha_bar(t - 1))
    beta = 1 - alpha_bar / before
    small = (1 - before) / (1 - alpha_bar) * beta
    uncertainty = s2 * (1 - alpha_bar) / (alpha_bar * s2 + 1 - alpha_bar)  # Var(x_0 | x_t)
    variance = small + before * (beta / (1 - alpha_bar)) ** 2 * uncertainty  # Var(x_{t-1} | x_t)
    fraction = math.log(variance / small) / math.log(beta / small)
    x0_pred = torch.zeros(2, 1, dtype=torch.float64)
    x0 = torch.tensor([[1.0], [-1.0]], dtype=torch.float64) * math.sqrt(uncertainty)
    times = torch.full((2,), t)

    def vlb(f):
        return vlb_terms(x0_pred, torch.full_like(x0, f), x0, times, SCHEDULE).mean()

    assert 0 < fraction < 1
    assert float(vlb(fraction)) == pytest.approx(0.5 * math.log2(variance / small))
    assert vlb(fraction) < min(vlb(fraction - 0.01), vlb(fraction + 0.01))


def test_hybrid_trains_the_variance_only_through_the_bound():
    x0, noise, t = batch()
    config = DiffusionConfig(variance_type="learned_range")
    output = torch.randn(6, 6, 4, 4, generator=torch.Generator().manual_seed(1))

    def gradient(vlb_weight):
        raw = output.clone().requires_grad_()
        process = Diffusion(config, LossConfig(vlb_weight=vlb_weight))
        losses = process.loss(raw, x0, noise, t)
        losses["loss"].backward()
        return losses, raw.grad

    without, plain = gradient(0.0)
    losses, hybrid = gradient(0.001)
    assert torch.equal(plain[:, :3], hybrid[:, :3])  # the mean is detached from the bound
    assert (plain[:, 3:] == 0).all()
    assert (hybrid[:, 3:] != 0).all()
    assert hybrid.isfinite().all()
    torch.testing.assert_close(losses["loss"], without["loss"] + 0.001 * losses["vlb"])
    unclipped = DiffusionConfig(variance_type="learned_range", clip_sample=False)
    p = Diffusion(unclipped).predict(output, SCHEDULE.q_sample(x0, t, noise), t)
    terms = vlb_terms(p.x0, p.variance, x0, t, SCHEDULE)
    torch.testing.assert_close(losses["vlb"], 1000 * terms.mean())


@pytest.mark.parametrize("kind", get_args(PredictionType))
def test_wild_half_precision_outputs_give_finite_gradients(kind):
    x0, noise, t = batch()
    config = DiffusionConfig(variance_type="learned_range", prediction_type=kind)
    raw = (torch.randn(6, 6, 4, 4) * 3).bfloat16().requires_grad_()
    losses = Diffusion(config).loss(raw, x0.bfloat16(), noise.bfloat16(), t)
    losses["loss"].backward()
    assert losses["loss"].dtype == torch.float32
    assert raw.grad.isfinite().all()


def test_first_term_is_the_likelihood():
    """At t = 0 and fraction 1, L_0 is the discretised likelihood with variance β_0."""
    x0 = torch.zeros(1, 1)
    mine = vlb_terms(x0 + 0.01, torch.ones(1, 1), x0, torch.tensor([0]), SCHEDULE)
    std = SCHEDULE.betas[0].sqrt().log().float()
    expected = discretised_gaussian_nll(x0, x0 + 0.01, std) / math.log(2)
    torch.testing.assert_close(mine, expected[0])


@pytest.mark.parametrize(
    "kwargs", [{"weighting": "snr"}, {"min_snr_gamma": 0.0}, {"vlb_weight": -1.0}]
)
def test_bad_loss_config(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        LossConfig(**kwargs)


def test_wrong_channels():
    x0, noise, t = batch()
    with pytest.raises(ValueError, match="channels"):
        Diffusion(DiffusionConfig(variance_type="learned_range")).loss(x0, x0, noise, t)
