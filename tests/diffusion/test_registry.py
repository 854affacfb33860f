"""Every row of the tables holds what it says, and a module outside can add one."""

import inspect
from typing import Any

import pytest
import torch

from unclip.diffusion.registry import SAMPLERS, SPACINGS, SamplerRow, spacing_named
from unclip.diffusion.samplers import ddim
from unclip.diffusion.schedules import Schedule


@pytest.mark.parametrize("name", SAMPLERS)
def test_rows_say_what_functions_take(name: str) -> None:
    row = SAMPLERS[name]
    function: Any = row.sampler()
    assert ("eta" in inspect.signature(function).parameters) == row.takes_eta
    assert row.spacing in SPACINGS
    evaluations = []

    def denoiser(x: torch.Tensor, t: torch.Tensor) -> Any:
        from unclip.diffusion.prediction import Prediction

        evaluations.append(t)
        return Prediction(x, x)

    schedule = Schedule.cosine(1000)
    timesteps = spacing_named(row.spacing)(schedule, 4)
    function(denoiser, torch.ones(1, 2), schedule, timesteps, torch.zeros_like)
    assert len(evaluations) == 3 * row.evaluations + 1


def test_a_row_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row, and requests and flags know it; what flags offer is read when they are parsed."""
    from unclip.diffusion.sampling import Sampling
    from unclip.interfaces.cli.options import BatchOptions, parse
    from unclip.pipeline.settings import Settings

    words = ["--sampler", "mine"]
    with pytest.raises(ValueError, match="no 'mine'"):
        parse(BatchOptions, "test", words)
    with pytest.raises(ValueError, match="unknown sampler 'mine'"):
        Settings(sampler="mine")
    monkeypatch.setitem(SAMPLERS, "mine", SamplerRow(ddim, "trailing", takes_eta=True))
    assert parse(BatchOptions, "test", words).settings() == Settings(sampler="mine")
    assert Sampling(sampler="mine").sampler == "mine"
    assert SAMPLERS["mine"].sampler(0.5).keywords == {"eta": 0.5}  # type: ignore[attr-defined]
