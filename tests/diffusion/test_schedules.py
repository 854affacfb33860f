import math

import pytest
import torch

from unclip.diffusion.schedules import SPACINGS, DiffusionConfig, Schedule, spacing_unclip


def test_cosine_follows_its_formula():
    schedule = Schedule.cosine(1000)
    assert schedule.betas.dtype == torch.float64
    assert schedule.betas.max() == 0.999

    def f(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 10, 500, 998):  # product of ratios: f((t + 1) / T) / f(0)
        assert float(schedule.alpha_bar(t)) == pytest.approx(f((t + 1) / 1000) / f(0), rel=1e-9)


def test_linear_endpoints_and_scaling():
    schedule = Schedule.linear(1000)
    assert schedule.betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    short = Schedule.linear(250)
    assert short.betas[[0, -1]].tolist() == pytest.approx([4e-4, 0.08])
    assert math.log(short.alpha_bar(249)) == pytest.approx(math.log(schedule.alpha_bar(999)), 0.05)


def test_alpha_bar_and_snr():
    schedule = Schedule.cosine(100)
    alpha_bar = schedule.alpha_bar(torch.tensor([0, 50, -1]))
    assert alpha_bar[-1] == 1
    torch.testing.assert_close(schedule.snr(torch.tensor([0, 50])), (a := alpha_bar[:2]) / (1 - a))
    assert schedule.snr(-1) == math.inf
    assert (schedule.snr(torch.arange(100)).diff() < 0).all()


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 5, 5)])
def test_q_sample(shape):
    schedule = Schedule.cosine(1000)
    x0, noise, t = torch.randn(shape), torch.randn(shape), torch.tensor([0, 500, 999])
    x_t = schedule.q_sample(x0, t, noise)
    for i in range(3):
        a = float(schedule.alpha_bar(t[i]))
        torch.testing.assert_close(x_t[i], math.sqrt(a) * x0[i] + math.sqrt(1 - a) * noise[i])
    assert schedule.q_sample(x0.bfloat16(), t, noise.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(schedule.q_sample(x0, t[1], noise)[1], x_t[1])  # () timesteps


def test_spacing_unclip_is_karlos():
    assert spacing_unclip(1000, 1).tolist() == [999]
    assert spacing_unclip(1000, 2).tolist() == [999, 0]
    assert spacing_unclip(1000, 7).tolist() == [999, 832, 666, 500, 333, 166, 0]
    assert spacing_unclip(1000, 1000).tolist() == list(range(999, -1, -1))


@pytest.mark.parametrize("spacing", SPACINGS.values())
@pytest.mark.parametrize("timesteps", [1, 2, 10, 1000])
def test_spacings_descend_within_range(spacing, timesteps):
    for n in {1, 2, timesteps // 3, timesteps - 1} - {0}:
        if n > max(timesteps - 1, 1):
            continue
        steps = spacing(timesteps, n)
        assert steps.dtype == torch.long
        assert len(steps) == n
        assert (steps.diff() < 0).all()
        assert 0 <= steps.min() <= steps.max() < timesteps
    for n in (0, -1, timesteps + 1):
        with pytest.raises(ValueError, match="sampling steps"):
            spacing(timesteps, n)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_train_timesteps", 0),
        ("variance_type", "fixed"),
        ("clip_sample_range", 0.0),
        ("clip_sample_range", math.nan),
        ("prediction_type", "x0"),
        ("beta_schedule", "cosine"),
    ],
)
def test_config_is_validated(key, value):
    with pytest.raises(ValueError, match=key):
        DiffusionConfig(**{key: value})


def test_schedule_from_config():
    config = DiffusionConfig(num_train_timesteps=50, beta_schedule="linear")
    assert torch.equal(Schedule.from_config(config).betas, Schedule.linear(50).betas)
    assert len(Schedule.from_config(DiffusionConfig())) == 1000


def test_bad_betas():
    for betas in (torch.tensor([]), torch.tensor([0.1, 1.0]), torch.tensor([[0.1]])):
        with pytest.raises(ValueError, match="betas"):
            Schedule(betas)
    with pytest.raises(ValueError, match="21 or more"):
        Schedule.linear(20)
    Schedule.linear(21)
