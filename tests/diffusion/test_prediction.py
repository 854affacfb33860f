from typing import get_args

import pytest
import torch

from unclip.diffusion.prediction import dynamic_threshold
from unclip.diffusion.process import Diffusion
from unclip.diffusion.schedules import DiffusionConfig, PredictionType, Schedule

SCHEDULE = Schedule.cosine(1000)


def data(shape=(4, 3, 5, 5), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    t = torch.tensor([0, 20, 500, 990])
    return x0, noise, t, SCHEDULE.q_sample(x0, t, noise)


@pytest.mark.parametrize("kind", get_args(PredictionType))
@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 5, 5)])
def test_target_and_prediction_are_inverse(kind, shape):
    x0, noise, t, x_t = data(shape)
    config = DiffusionConfig(prediction_type=kind, clip_sample=False)
    target = Diffusion(config).target(x0, noise, t)
    prediction = Diffusion(config).predict(target, x_t, t)
    torch.testing.assert_close(prediction.x0, x0, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(prediction.eps, noise, atol=1e-9, rtol=1e-9)
    assert prediction.variance is None


@pytest.mark.parametrize("kind", get_args(PredictionType))
@pytest.mark.parametrize("threshold", [None, 0.9])
def test_eps_agrees_with_clipped_x0(kind, threshold):
    _, noise, t, x_t = data()
    config = DiffusionConfig(prediction_type=kind, clip_sample_range=0.7)
    p = Diffusion(config).predict(noise, x_t, t, threshold)
    assert p.x0.abs().max() <= 0.7 + 1e-12
    alpha, sigma = SCHEDULE.alpha_sigma(t, x_t)
    torch.testing.assert_close(alpha * p.x0 + sigma * p.eps, x_t, atol=1e-12, rtol=0)


def test_learned_variance_is_the_second_half():
    x0, noise, t, x_t = data()
    config = DiffusionConfig(variance_type="learned_range")
    p = Diffusion(config).predict(torch.cat([noise, 0 * noise - 1], 1), x_t, t)
    assert (p.variance == 0).all()
    p = Diffusion(config).predict(torch.cat([noise, 0 * noise + 1], 1), x_t, t)
    assert (p.variance == 1).all()
    torch.testing.assert_close(p.x0, x0.clamp(-1, 1), atol=1e-9, rtol=0)


def test_half_precision_outputs_become_float32():
    _, noise, t, x_t = data(dtype=torch.float32)
    p = Diffusion(DiffusionConfig()).predict(noise.bfloat16(), x_t.bfloat16(), t)
    assert p.x0.dtype == p.eps.dtype == torch.float32


def test_dynamic_threshold():
    x = torch.tensor([[0.5, -0.25, 0.1], [4.0, -2.0, 1.0]])
    torch.testing.assert_close(
        dynamic_threshold(x, 1.0), torch.tensor([[0.5, -0.25, 0.1], [1.0, -0.5, 0.25]])
    )
    torch.testing.assert_close(  # the median of |x| is 2: 4 is clipped to it, all are halved
        dynamic_threshold(x, 0.5)[1], torch.tensor([1.0, -1.0, 0.5])
    )
    torch.testing.assert_close(dynamic_threshold(x, 1.0, bound=2.0)[1], x[1] / 2)
    for percentile in (0.0, 1.5):
        with pytest.raises(ValueError, match="percentile"):
            dynamic_threshold(x, percentile)


@pytest.mark.parametrize(
    ("variance_type", "channels"), [("fixed_small_log", 6), ("learned_range", 3)]
)
def test_wrong_channels(variance_type, channels):
    *_, t, x_t = data()
    config = DiffusionConfig(variance_type=variance_type)
    with pytest.raises(ValueError, match="channels"):
        Diffusion(config).predict(torch.zeros(4, channels, 5, 5), x_t, t)
