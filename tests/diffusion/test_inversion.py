"""Inversion: the x_T that it finds leads back to the data, on denoisers of every kind."""

import pytest
import torch

from unclip.diffusion.inversion import ending_in_data, invert
from unclip.diffusion.prediction import Prediction
from unclip.diffusion.process import Diffusion
from unclip.diffusion.samplers import ddim
from unclip.diffusion.schedules import DiffusionConfig, Schedule, spacing_unclip

SCHEDULE = Schedule.cosine(1000)
TIMES = spacing_unclip(SCHEDULE, 100)


def random_denoiser(kind: str, clip: bool, width: int = 24):
    """A random two-layer network of x and t, predicting ε, x_0 or v, trained for nothing."""
    g = torch.Generator().manual_seed(0)
    first = torch.randn(width, width, generator=g) / width**0.5
    second = 0.2 * torch.randn(width, width, generator=g) / width**0.5
    process = Diffusion(DiffusionConfig(prediction_type=kind, clip_sample=clip))

    def denoise(x: torch.Tensor, t: torch.Tensor) -> Prediction:
        output = torch.tanh(x @ first + t[:, None] / 1000) @ second
        return process.predict(output, x, t)

    return ending_in_data(denoise, SCHEDULE)


def there_and_back(denoise, data, **options):
    x_end = invert(denoise, data, SCHEDULE, TIMES, **options)
    return ddim(denoise, x_end, SCHEDULE, TIMES)


def data() -> torch.Tensor:
    """Rows within [-1, 1], among them ones at the border, which clipping is about."""
    rows = torch.rand(4, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    rows[1] = rows[1].sign()
    return rows


# Clipped ε of a network that nobody trained jumps where α is small; a trained one's does not.
@pytest.mark.parametrize(
    ("kind", "clip"),
    [
        ("epsilon", False),
        ("sample", False),
        ("sample", True),
        ("v_prediction", False),
        ("v_prediction", True),
    ],
)
def test_random_networks_lead_back(kind: str, clip: bool) -> None:
    denoise = random_denoiser(kind, clip)
    found = there_and_back(denoise, data())
    assert (found - data()).square().mean().sqrt() < 2e-2  # 40 dB of a range of 2


def test_refinement_is_what_makes_it_exact() -> None:
    denoise = random_denoiser("sample", True)
    once = (there_and_back(denoise, data(), iterations=1) - data()).abs().mean()
    refined = (there_and_back(denoise, data()) - data()).abs().mean()
    assert refined < once / 10


def test_at_t_0_the_data_itself() -> None:
    denoise = random_denoiser("sample", True)
    x = data()
    ended = denoise(x, torch.zeros(4, dtype=torch.long))
    assert torch.allclose(ended.x0, x / SCHEDULE.alpha_bar(0).sqrt().float())
    assert not ended.eps.any()
    assert denoise(x, torch.full((4,), 52)).eps.any()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="0 iterations"):
        invert(random_denoiser("sample", True), data(), SCHEDULE, TIMES, iterations=0)
    with pytest.raises(ValueError, match="descending"):
        invert(random_denoiser("sample", True), data(), SCHEDULE, TIMES.flip(0))
