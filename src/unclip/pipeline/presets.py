"""How each stage is sampled, by name; the published layout's values are the default.

docs/sampling.md describes the samplers and approximations; every value can be overridden by itself.
"""

import math
from dataclasses import dataclass

from unclip.config import one_of


@dataclass(frozen=True)
class Way:
    """How one stage is sampled.

    Args:
        steps: of the sampler; an upsampler that predicts ε takes two where this is one, since x_0
            is then what is left of pure noise, divided by next to nothing.
        sampler: None is the model's own.
        eta: the noise that this sampler adds, see `Sampling`; None is the model's own.
        interval: (lowest, highest) noise level σ at which to guide; None is all.
        reuse: deep features of a U-Net are computed at every `reuse`-th step.
        distilled: how instead, where a decoder's student gives guided predictions at once.
    """

    steps: int
    sampler: str | None = None
    interval: tuple[float, float] | None = None
    reuse: int = 1
    eta: float | None = None
    distilled: "Way | None" = None


@dataclass(frozen=True)
class Preset:
    """How prior, decoder and both upsamplers are sampled."""

    prior: Way
    decoder: Way
    super_res: Way
    super_res_1024: Way


PRESETS: dict[str, Preset] = {
    "fast": Preset(  # a fifth of `default`'s operations, or less
        Way(12, "dpm++", eta=1.0),
        Way(9, "dpm++", (1.0, math.inf), eta=1.0, distilled=Way(14, "dpm++", eta=1.0)),
        Way(1, "ddim", reuse=2),
        Way(1, "ddim", reuse=2),
    ),
    "default": Preset(Way(25), Way(25), Way(7), Way(7)),
    "paper": Preset(Way(64), Way(250), Way(27), Way(15)),
}


def preset(name: str) -> Preset:
    """A row of `PRESETS`, or a ValueError that names them."""
    return PRESETS[one_of(name, "preset", PRESETS)]
