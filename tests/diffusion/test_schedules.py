import math

import pytest
import torch

from unclip.diffusion.registry import SPACINGS, spacing_named
from unclip.diffusion.schedules import (
    DiffusionConfig,
    Schedule,
    spacing_karras,
    spacing_unclip,
)


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


def test_between_timesteps_the_log_snr_is_linear():
    schedule = Schedule.cosine(100)
    log_snr = schedule.snr(torch.tensor([40, 40.25, 41])).log()
    assert float(log_snr[1]) == pytest.approx(float(0.75 * log_snr[0] + 0.25 * log_snr[2]))
    level = schedule.noise_level(torch.tensor([-1, -0.75, 0.0]))  # but next to the data the level
    assert level.tolist() == pytest.approx([0, 0.25 * float(level[2]), float(level[2])])
    for bad in (-1.01, 99.01, math.nan):
        with pytest.raises(ValueError, match="between -1 and 99"):
            schedule.alpha_bar(bad)


@pytest.mark.parametrize("schedule", [Schedule.cosine(1000), Schedule.linear(50)])
def test_whole_timesteps_are_exact_as_floats(schedule):
    whole = torch.arange(-1, len(schedule))
    assert torch.equal(schedule.alpha_bar(whole.float()), schedule.alpha_bar(whole))
    assert (schedule.alpha_bar(torch.arange(-1, len(schedule) - 1, 0.25)).diff() < 0).all()
    like = torch.ones(len(schedule), 2)
    for ours, table in zip(
        schedule.alpha_sigma(whole[1:].double(), like),
        schedule.alpha_sigma(whole[1:], like),
        strict=True,
    ):
        assert torch.equal(ours, table)


@pytest.mark.parametrize(
    "schedule", [Schedule.cosine(1000), Schedule.linear(50), Schedule.cosine(1)]
)
def test_noise_levels_have_their_timesteps(schedule):
    t = torch.linspace(-1, len(schedule) - 1, 333, dtype=torch.float64)
    torch.testing.assert_close(schedule.timestep(schedule.noise_level(t)), t, atol=1e-8, rtol=0)
    assert schedule.timestep(1e9) == len(schedule) - 1
    assert schedule.timestep(0) == -1


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
    schedule = Schedule.cosine(1000)
    assert spacing_unclip(schedule, 1).tolist() == [999]
    assert spacing_unclip(schedule, 2).tolist() == [999, 0]
    assert spacing_unclip(schedule, 7).tolist() == [999, 832, 666, 500, 333, 166, 0]
    assert spacing_unclip(schedule, 1000).tolist() == list(range(999, -1, -1))


@pytest.mark.parametrize("name", SPACINGS)
@pytest.mark.parametrize("timesteps", [1, 2, 10, 1000])
def test_spacings_descend_within_range(name, timesteps):
    schedule, spacing = Schedule.cosine(timesteps), spacing_named(name)
    for n in {1, 2, timesteps // 3, timesteps - 1} - {0}:
        if n > max(timesteps - 1, 1):
            continue
        steps = spacing(schedule, n)
        assert steps.dtype == (torch.float64 if name == "karras" else torch.long)
        assert len(steps) == n
        assert (steps.diff() < 0).all()
        assert 0 <= steps.min() <= steps.max() < timesteps
    for n in (0, -1, timesteps + 1):
        with pytest.raises(ValueError, match="sampling steps"):
            spacing(schedule, n)


@pytest.mark.parametrize("schedule", [Schedule.cosine(1000), Schedule.linear(1000)])
def test_karras_noise_levels(schedule):
    """EDM's own, eq. 5: between its σ_max or the schedule's, and what t = 0 holds."""
    t = spacing_karras(schedule, 18)
    high, low = min(80.0, float(schedule.noise_level(999))), float(schedule.noise_level(0))
    ends = high ** (1 / 7), low ** (1 / 7)
    expected = [(ends[0] + i / 17 * (ends[1] - ends[0])) ** 7 for i in range(18)]
    assert schedule.noise_level(t).tolist() == pytest.approx(expected, rel=1e-9)
    assert t[-1] == pytest.approx(0, abs=1e-9)
    assert spacing_karras(schedule, 1) == t[0]


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
