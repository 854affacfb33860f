"""Step by step against diffusers' schedulers, from the same states with the same noise.

diffusers keeps its tables in float32, where 1 - ᾱ near t = 0 has lost three digits. The step tests
give it our float64 tables, so that formulas are compared to 1e-5 everywhere; other tests hold its
own tables and an untouched run against ours.
"""

from functools import partial

import pytest
import torch

from unclip.diffusion.prediction import Prediction
from unclip.diffusion.process import Diffusion
from unclip.diffusion.registry import spacing_named
from unclip.diffusion.samplers import ddim, ddpm, dpm_solver_pp_2m, heun, noise_from
from unclip.diffusion.schedules import (
    DiffusionConfig,
    Schedule,
    spacing_linspace,
    spacing_unclip,
)

diffusers = pytest.importorskip("diffusers.schedulers")

SHAPE = (2, 3, 4, 4)


def network(x: torch.Tensor, t: torch.Tensor, learned: bool) -> torch.Tensor:
    """Any smooth function will do as a network."""
    phase = (t / 300).reshape(-1, *[1] * (x.ndim - 1)).to(x)
    mean = torch.sin(2 * x + phase)
    return torch.cat([mean, torch.cos(3 * x - phase)], dim=1) if learned else mean


def use_float64_tables(scheduler, schedule: Schedule) -> None:
    scheduler.betas, scheduler.alphas_cumprod = schedule.betas, schedule.alphas_cumprod
    scheduler.alphas = 1 - schedule.betas


def trace(sampler, config: DiffusionConfig, timesteps, threshold=None, shape=SHAPE):
    """Run our sampler; return its steps as (t, x before, raw output, x after)."""
    process, before, after = Diffusion(config), [], []

    def denoiser(x: torch.Tensor, t: torch.Tensor) -> Prediction:
        raw = network(x, t, config.variance_type == "learned_range")
        before.append((int(t[0]), x, raw))
        return process.predict(raw, x, t, threshold)

    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    noise = noise_from(torch.Generator().manual_seed(1))
    sampler(
        denoiser,
        x,
        process.schedule,
        timesteps,
        noise,
        callback=lambda i, t, x, p: after.append((t, x)),
    )
    assert [t for t, *_ in before] == [t for t, _ in after] == timesteps.tolist()
    return [(t, x, raw, y) for (t, x, raw), (_, y) in zip(before, after, strict=True)]


def assert_same_steps(steps, step, atol=1e-5):
    generator = torch.Generator().manual_seed(1)
    for i, (t, x, raw, ours) in enumerate(steps):
        theirs = step(i, t, x, raw, generator)
        torch.testing.assert_close(ours, theirs.to(ours), atol=atol, rtol=1e-5, msg=f"step {i}")


@pytest.mark.parametrize(
    ("variance_type", "prediction_type", "clip_range", "shape"),
    [
        ("fixed_small_log", "sample", 5.0, (2, 8)),  # Karlo's prior
        ("learned_range", "epsilon", 1.0, SHAPE),  # its decoder
        ("fixed_small_log", "epsilon", 1.0, SHAPE),  # its super-resolution
        ("learned_range", "sample", 1.0, SHAPE),
    ],
)
@pytest.mark.parametrize("n", [2, 7, 25])
@pytest.mark.parametrize("tables", ["ours", "theirs"])
def test_ddpm_equals_unclip_scheduler(variance_type, prediction_type, clip_range, shape, n, tables):
    config = DiffusionConfig(
        variance_type=variance_type, prediction_type=prediction_type, clip_sample_range=clip_range
    )
    scheduler = diffusers.UnCLIPScheduler(**vars(config))
    scheduler.set_timesteps(n)
    timesteps = spacing_unclip(Schedule.cosine(), n)
    if tables == "ours":
        use_float64_tables(scheduler, Schedule.cosine())
    following = [*timesteps.tolist()[1:], None]

    def step(i, t, x, raw, generator):
        return scheduler.step(
            raw, t, x, prev_timestep=following[i], generator=generator
        ).prev_sample

    # Untouched, diffusers multiplies the final x_0 by beta_0 / (1 - alpha_bar_0) = 0.9995, not 1.
    atol = 1e-5 if tables == "ours" else 6e-4 * clip_range
    assert_same_steps(trace(ddpm, config, timesteps, shape=shape), step, atol)


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance_type", ["fixed_small_log", "learned_range"])
@pytest.mark.parametrize(("spacing", "threshold"), [("trailing", None), ("leading", 0.9)])
def test_ddpm_equals_ddpm_scheduler(
    beta_schedule, prediction_type, variance_type, spacing, threshold
):
    config = DiffusionConfig(
        variance_type=variance_type, prediction_type=prediction_type, beta_schedule=beta_schedule
    )
    scheduler = diffusers.DDPMScheduler(
        **vars(config),
        timestep_spacing=spacing,
        thresholding=threshold is not None,
        dynamic_thresholding_ratio=threshold or 0.0,
        sample_max_value=1e9,
    )
    use_float64_tables(scheduler, Schedule.from_config(config))
    scheduler.set_timesteps(10)
    timesteps = spacing_named(spacing)(Schedule.from_config(config), 10)

    def step(i, t, x, raw, generator):
        return scheduler.step(raw, t, x, generator=generator).prev_sample

    steps = trace(ddpm, config, timesteps, threshold)
    if variance_type == "learned_range" and spacing == "trailing":
        steps = steps[:-1]  # diffusers adds noise even to the final sample there
    assert_same_steps(steps, step)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    ("beta_schedule", "clip", "spacing"),
    [("linear", False, "leading"), ("squaredcos_cap_v2", True, "trailing")],
)
def test_ddim_equals_ddim_scheduler(eta, prediction_type, beta_schedule, clip, spacing):
    config = DiffusionConfig(
        prediction_type=prediction_type, beta_schedule=beta_schedule, clip_sample=clip
    )
    kwargs = {k: v for k, v in vars(config).items() if k != "variance_type"}
    scheduler = diffusers.DDIMScheduler(**kwargs, timestep_spacing=spacing)
    use_float64_tables(scheduler, Schedule.from_config(config))
    scheduler.set_timesteps(20)
    timesteps = spacing_named(spacing)(Schedule.from_config(config), 20)

    def step(i, t, x, raw, generator):
        return scheduler.step(
            raw, t, x, eta=eta, generator=generator, use_clipped_model_output=clip
        ).prev_sample

    assert_same_steps(trace(partial(ddim, eta=eta), config, timesteps), step)


@pytest.mark.parametrize("n", [2, 10, 20])
@pytest.mark.parametrize(("eta", "algorithm"), [(0.0, "dpmsolver++"), (1.0, "sde-dpmsolver++")])
@pytest.mark.parametrize(
    ("beta_schedule", "prediction_type", "threshold"),
    [
        ("linear", "epsilon", None),
        ("linear", "v_prediction", None),
        ("squaredcos_cap_v2", "sample", None),
        ("squaredcos_cap_v2", "epsilon", 0.9),
    ],
)
def test_dpm_solver_equals_multistep_scheduler(
    n, eta, algorithm, beta_schedule, prediction_type, threshold
):
    config = DiffusionConfig(
        prediction_type=prediction_type, beta_schedule=beta_schedule, clip_sample=False
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type=prediction_type,
        beta_schedule=beta_schedule,
        algorithm_type=algorithm,
        thresholding=threshold is not None,
        dynamic_thresholding_ratio=threshold or 0.0,
        sample_max_value=1e9,
        timestep_spacing="linspace",
    )
    use_float64_tables(scheduler, Schedule.from_config(config))
    scheduler.set_timesteps(n)
    timesteps = spacing_linspace(Schedule.cosine(), n)

    def step(i, t, x, raw, generator):
        return scheduler.step(raw, t, x, generator=generator).prev_sample

    sampler = partial(dpm_solver_pp_2m, eta=eta)
    assert_same_steps(trace(sampler, config, timesteps, threshold), step)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_heun_equals_heun_scheduler(prediction_type):
    """On whole timesteps; between them diffusers interpolates σ, and not its logarithm."""
    config = DiffusionConfig(
        prediction_type=prediction_type, beta_schedule="linear", clip_sample=False
    )
    schedule, n = Schedule.from_config(config), 28
    scheduler = diffusers.HeunDiscreteScheduler(
        prediction_type=prediction_type, beta_start=1e-4, beta_end=0.02, timestep_spacing="linspace"
    )
    use_float64_tables(scheduler, schedule)
    scheduler.set_timesteps(n)
    timesteps = spacing_unclip(schedule, n)
    asked = scheduler.timesteps.long()
    assert asked.tolist() == [t for t in timesteps.tolist() for _ in range(2)][1:]
    # In fp32 rounding alone is up to 2e-4 here, by the CPU: x and x / α round differently.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    theirs = x * (1 + scheduler.sigmas[0] ** 2).sqrt()  # theirs is x / α
    for t in scheduler.timesteps:
        raw = network(scheduler.scale_model_input(theirs, t), t, False)
        theirs = scheduler.step(raw, t, theirs).prev_sample

    denoiser = Diffusion(config).denoiser(partial(network, learned=False))
    ours = heun(denoiser, x, schedule, timesteps)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
def test_tables(beta_schedule):
    scheduler = diffusers.DDPMScheduler(beta_schedule=beta_schedule)
    schedule = Schedule.from_config(DiffusionConfig(beta_schedule=beta_schedule))
    torch.testing.assert_close(schedule.betas.float(), scheduler.betas, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(
        schedule.alphas_cumprod.float(), scheduler.alphas_cumprod, atol=1e-6, rtol=2e-5
    )
    x0, noise = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 10, 500, 999])
    config = DiffusionConfig(prediction_type="v_prediction", beta_schedule=beta_schedule)
    x_t, v = schedule.q_sample(x0, t, noise), Diffusion(config).target(x0, noise, t)
    torch.testing.assert_close(x_t, scheduler.add_noise(x0, noise, t), atol=1e-5, rtol=0)
    torch.testing.assert_close(v, scheduler.get_velocity(x0, noise, t), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("spacing", "scheduler", "name"),
    [
        ("unclip", diffusers.UnCLIPScheduler, None),
        ("unclip", diffusers.DDPMScheduler, "linspace"),
        ("leading", diffusers.DDIMScheduler, "leading"),
        ("trailing", diffusers.DDPMScheduler, "trailing"),
        ("linspace", diffusers.DPMSolverMultistepScheduler, "linspace"),
    ],
)
def test_spacings(spacing, scheduler, name):
    for timesteps in (1000, 128):
        ours = partial(spacing_named(spacing), Schedule.cosine(timesteps))
        their = scheduler(
            num_train_timesteps=timesteps, **({"timestep_spacing": name} if name else {})
        )
        for n in (2, 3, 7, 15, 27, 50, 64, 100, 127):
            their.set_timesteps(n)
            assert torch.equal(ours(n), their.timesteps), (timesteps, n)
