"""The samplers and spacings that there are, by name. Nothing here imports torch, so that a command
line knows the names at once.

A new one is one function and one row. A module outside of this package adds its own row,
`SAMPLERS["mine"] = SamplerRow(mine, "unclip")`, and requests, flags and recipes know it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from unclip.lazy import imported

if TYPE_CHECKING:
    from torch import Tensor

    from unclip.diffusion.samplers import Sampler
    from unclip.diffusion.schedules import Schedule

    Spacing = Callable[[Schedule, int], Tensor]
    """(schedule, n steps) -> (n,) descending timesteps, whole or not."""


@dataclass(frozen=True)
class SamplerRow:
    """What is known of a sampler beside its function.

    Args:
        function: the `Sampler`, or "module:name", which is imported when it is first used.
        spacing: the timesteps that it visits, a name in `SPACINGS`, unless a request says others.
        order: of convergence to the solution of the probability-flow ODE; None where the sampler
            always adds noise and solves none.
        evaluations: of the denoiser at each step; the one to the data takes a single one.
        takes_eta: whether it has an argument `eta`, how much noise it adds, from 0 to 1.
    """

    function: "Sampler | str"
    spacing: str
    order: int | None = None
    evaluations: int = 1
    takes_eta: bool = False

    def sampler(self, eta: float = 0.0) -> "Sampler":
        """The function, which adds `eta` of the noise if it can be told how much."""
        function = imported(self.function)
        sampler: Sampler = partial(function, eta=eta) if self.takes_eta else function
        return sampler


SAMPLERS: dict[str, SamplerRow] = {
    "ddpm": SamplerRow("unclip.diffusion.samplers:ddpm", "unclip"),
    "ddim": SamplerRow("unclip.diffusion.samplers:ddim", "unclip", order=1, takes_eta=True),
    "dpm++": SamplerRow(
        "unclip.diffusion.samplers:dpm_solver_pp_2m", "linspace", order=2, takes_eta=True
    ),
    "heun": SamplerRow("unclip.diffusion.samplers:heun", "karras", order=2, evaluations=2),
}

SPACINGS: dict[str, "Spacing | str"] = {
    "unclip": "unclip.diffusion.schedules:spacing_unclip",
    "leading": "unclip.diffusion.schedules:spacing_leading",
    "trailing": "unclip.diffusion.schedules:spacing_trailing",
    "linspace": "unclip.diffusion.schedules:spacing_linspace",
    "karras": "unclip.diffusion.schedules:spacing_karras",
}


def spacing_named(name: str) -> "Spacing":
    """The function of a row of `SPACINGS`."""
    function: Spacing = imported(SPACINGS[name])
    return function
