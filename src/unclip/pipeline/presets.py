"""How many steps each stage takes, by name; the published layout's values are the default.

DPM-Solver++ and guidance are described in `diffusion/`; every value can be overridden by itself.
"""

from dataclasses import dataclass

from unclip.config import suggest


@dataclass(frozen=True)
class Preset:
    """Samplers and steps of prior, decoder and upsamplers; sampler None: the model's own."""

    sampler: str | None
    prior_steps: int
    decoder_steps: int
    super_res_steps: int
    super_res_1024_steps: int


PRESETS: dict[str, Preset] = {
    #                 sampler  prior  decoder  upsampler  second
    "fast":    Preset("dpm++", 8,     10,      3,         3),
    "default": Preset(None,    25,    25,      7,         7),
    "paper":   Preset(None,    64,    250,     27,        15),
}  # fmt: skip


def preset(name: str) -> Preset:
    """A row of `PRESETS`, or a ValueError that names them."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}{suggest(name, PRESETS)}")
    return PRESETS[name]
