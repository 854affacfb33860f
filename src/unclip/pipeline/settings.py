"""Everything but the prompt and the seed that decides an image: each knob once, and the presets.

A knob is one field of `Settings`. The flags of the commands, the notes in images, what a preset and
a model may say, `resolve`, the JSON schema and the table in docs/sampling.md follow from it.

Nothing heavy is imported here: the command line's help is made of it.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from unclip.checks import check_interval, listed, many, of_kind, shown, true_or_false, whole_number
from unclip.config import (
    Between,
    Candidates,
    Interval,
    Nucleus,
    Percentile,
    Pixels,
    Probability,
    Resamples,
    Reuse,
    Scale,
    Steps,
    Temperature,
    from_mapping,
    one_of,
    to_mapping,
)
from unclip.diffusion.registry import SAMPLERS, SPACINGS
from unclip.pipeline.knobs import (
    INVERSION,
    Knob,
    Knobs,
    concerning,
    flag_of,
    hints_of,
    json_schema,
    knob,
    knobs_of,
    markdown_table,
)
from unclip.stages.catalogue import prior_kinds

Kind = TypeVar("Kind", bound="type[Settings]")
Captions = Annotated[tuple[str, ...], Between(1, 1000)]
Row = Mapping[str, Any]
"""How one stage is sampled, by `Sampling`'s names; what is not in it, the model says."""
_NOISY = " and ".join(name for name, row in SAMPLERS.items() if row.takes_eta)
GUIDANCE_KINDS = ("branches", "distilled")
UPSAMPLING = ("super_res", "super_res_1024")
DECODING = ("decoder", *UPSAMPLING)
STAGES = ("prior", *DECODING)
DISTILLED, FEW_STEPS = "decoder_distilled", "decoder_few_steps"
INPAINTING = "inpainting"
"""What only inpainting asks for, as if it were a stage."""


_EDITED = "1 + 2 θ, 2 at most,"
"""`edit_guidance` in words."""


def edit_guidance(theta: float) -> float:
    """The decoder's guidance scale for a text diff of an inverted image, where none is said.

    More edits come out as asked than without (docs/experiments.md), and θ = 0 is the image itself,
    which guidance would change.
    """
    return 1 + min(1.0, 2 * theta)


@dataclass(frozen=True)
class Preset:
    """How each stage is sampled.

    Args:
        prior, decoder, super_res, super_res_1024: their rows. An upsampler that predicts ε takes
            two steps where its row says one, since x_0 is then what is left of pure noise, divided
            by next to nothing.
        decoder_distilled: the decoder's row where its student gives guided predictions at once;
            without one, such guidance must be asked for.
        decoder_few_steps: the number of steps where it has a student of few steps; likewise.
        yields: whether the model's word comes before these rows, not after them.

    Raises:
        ValueError: a row says no steps, what no preset says, or a value that makes no sense.
    """

    prior: Row
    decoder: Row
    super_res: Row
    super_res_1024: Row
    decoder_distilled: Row | None = None
    decoder_few_steps: Row | None = None
    yields: bool = False

    def __post_init__(self) -> None:
        for stage in (*STAGES, DISTILLED, FEW_STEPS):
            knobs = concerning(known(), ["decoder" if "decoder" in stage else stage]).items()
            names = {one.row or name: name for name, one in knobs if one.preset}
            row = getattr(self, stage)
            if row is None:
                continue
            if "steps" not in row:
                raise ValueError(f"the row of {stage} says no steps")
            known()(**{names[one_of(key, "value", names)]: said for key, said in row.items()})


PRESETS: dict[str, Preset] = {}
"""By name; docs/sampling.md describes them."""


@dataclass(frozen=True)
class Settings(Knobs):
    """Everything but the prompt and the seed that decides an image.

    None is the preset's value, else the model's own. docs/sampling.md has the table of what each
    knob is, the values that it takes, and its flag.
    """

    steps: str = knob(
        "Preset of samplers and steps", *STAGES, default="default", choices=PRESETS, row="preset"
    )
    prior_num_inference_steps: Steps | None = knob(
        "Number of steps of the diffusion prior; an autoregressive one takes as many as z_i has "
        "codes", "prior", flag="prior-steps", row="steps", preset=True, model=True,
    )  # fmt: skip
    decoder_num_inference_steps: Steps | None = knob(
        "Number of steps of the decoder", "decoder", flag="decoder-steps", row="steps", preset=True,
        model=True, inverted=INVERSION,
    )  # fmt: skip
    super_res_num_inference_steps: Steps | None = knob(
        "Number of steps of each upsampler", *UPSAMPLING, flag="super-res-steps", row="steps",
        preset=True, model=True,
    )  # fmt: skip
    prior_guidance_scale: Scale | None = knob(
        "Guidance scale of the prior", "prior", flag="prior-guidance", row="guidance_scale",
        model=True, published=4.0,
    )  # fmt: skip
    decoder_guidance_scale: Scale | None = knob(
        "Guidance scale of the decoder", "decoder", flag="guidance", row="guidance_scale",
        model=True, published=8.0, inverted=1.0, edited=_EDITED,
    )  # fmt: skip
    sampler: str | None = knob(
        "Sampler of all stages", *STAGES, choices=SAMPLERS, preset=True, model=True,
        published="ddpm", inverted="ddim",
    )  # fmt: skip
    eta: Probability | None = knob(
        f"Noise that {_NOISY} add, η from 0 (none) to 1", *STAGES, preset=True, model=True,
        beside="sampler", published=0.0, inverted=0.0,
    )  # fmt: skip
    negative_prompt: str | Captions | None = knob(
        "Caption that prior and decoder are led away from, where they are guided", "prior",
        "decoder", left_out="the empty one",
    )  # fmt: skip
    size: Pixels | None = knob(
        "Pixels of a side, one of the model's sizes", *STAGES, left_out="the largest"
    )
    prior_num_candidates: Candidates | None = knob(
        "Number of z_i that the prior draws for an image, to keep the one closest to z_t", "prior",
        flag="prior-candidates", row="candidates", left_out="the model's own number, else 1",
    )  # fmt: skip
    prior: str | None = knob(
        "Prior that draws the embedding, where the model has both", "prior", choices=prior_kinds,
        model=True,
    )  # fmt: skip
    guidance_interval: Interval | None = knob(
        "Noise levels σ, noise over signal, the lowest and the highest, at which prior and decoder "
        'are guided; "0 inf" is all', "prior", "decoder", preset=True,
    )  # fmt: skip
    guidance_kind: str | None = knob(
        "Kind of guidance in the decoder: both branches, or at half the cost or less what a "
        "student has learned of them (distilled), if the model has one", "decoder",
        choices=GUIDANCE_KINDS,
        left_out="the preset's",
    )  # fmt: skip
    reuse: Reuse | None = knob(
        "Steps from one to the next at which decoder and upsamplers compute deep features, which "
        "are reused in between; 1 is every step", *DECODING, preset=True, inverted=1,
    )  # fmt: skip
    guidance_rescale: Probability | None = knob(
        "Share of the way, 0 to 1, that guided predictions go back to the deviation of unguided "
        "ones, against overexposed images", "decoder", preset=True,
        left_out="the preset's, else 0",
    )  # fmt: skip
    dynamic_threshold: Percentile | None = knob(
        "Percentile of the predicted pixels, as a fraction, that becomes the brightest one where "
        "more would be clipped; Imagen's is 0.995", "decoder", row="threshold", preset=True,
        left_out="the preset's, else pixels are clipped",
    )  # fmt: skip
    spacing: str | None = knob(
        "Spacing of the timesteps", *STAGES, choices=SPACINGS, preset=True, beside="sampler",
        left_out="the preset's, else the sampler's own",
    )  # fmt: skip
    prior_temperature: Temperature | None = knob(
        "Temperature of an autoregressive prior; 0 takes the likeliest code", "prior",
        row="temperature", preset=True, left_out="the preset's, else 1",
    )  # fmt: skip
    prior_top_p: Nucleus | None = knob(
        "Probability of the fewest codes that an autoregressive prior draws from", "prior",
        row="top_p", preset=True, left_out="the preset's, else 1",
    )  # fmt: skip
    prior_dot_quantile: Probability | None = knob(
        "Quantile of the training's z_i · z_t, from which on an autoregressive prior draws the one "
        "that it asks for", "prior", row="dot_quantile", preset=True,
        left_out="the preset's, else 0.5: the top half",
    )  # fmt: skip
    resamples: Resamples | None = knob(
        "Times that inpainting goes through the decoder's steps (RePaint's r)", INPAINTING,
        left_out="1 for a decoder with mask channels, else 5",
    )  # fmt: skip
    inpainting_candidates: Candidates | None = knob(
        "Number of images that the decoder paints for each, to keep the one that CLIP finds "
        "closest to the caption", INPAINTING, flag="candidates", row="candidates", model=True,
        left_out="the model's own number, else 1",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self.guidance_interval, "guidance_interval")

    def changed(self) -> dict[str, Any]:
        """The values that differ from the defaults, for the image's notes."""
        return {
            name: value
            for name, value in vars(self).items()
            if value != type(self).__dataclass_fields__[name].default
        }

    def with_values(self, overrides: dict[str, Any]) -> "Settings":
        """These settings with some fields given by name; `ValueError` for an unknown name."""
        of_kind(overrides, dict, "overrides", "a dict of settings")
        settings = known()(**vars(self)) if type(self) is Settings else self
        for key in overrides:
            one_of(key, "argument", type(settings).__dataclass_fields__)
        return replace(settings, **overrides)

    def for_images(self, numbers: Sequence[int]) -> "Settings":
        """These settings for some images: of one negative prompt for each prompt, those that images
        of the prompts with these numbers have."""
        if not isinstance(self.negative_prompt, tuple):
            return self
        return replace(self, negative_prompt=tuple(self.negative_prompt[k] for k in numbers))

    def guided(self, scales: Sequence[float] | None, count: int) -> list["Settings"]:
        """Of `count` images, each with one of these scales of the decoder's guidance, computed by
        both branches; as they are where a scale is said, or a student asked for.

        Raises:
            ValueError: not so many scales, or one that makes no sense.
        """
        count = whole_number(count, "the number of images", 0, 2**31)
        scales = None if scales is None else listed(scales)
        if scales is not None and len(scales) != count:
            raise ValueError(
                f"{many(len(scales), 'scales were')} given for {many(count, 'images')}"
            )
        said = self.decoder_guidance_scale is not None or self.guidance_kind == "distilled"
        if scales is None or said:
            return [self] * count
        return [
            self.with_values({"decoder_guidance_scale": scale, "guidance_kind": "branches"})
            for scale in scales
        ]

    def for_reconstruction(self, steps: int, edits: bool = False) -> "Settings":
        """These settings, where they leave it open, as inverted latents lead back to their images:
        DDIM with η = 0, no guidance, no feature reused.

        Args:
            steps: of the inversion, which the decoder takes too.
            edits: whether the images are then changed: guidance is left open (`edit_guidance`).
        """
        edits = true_or_false(edits, "edits")
        said = {name: one.inverted for name, one in knobs_of(type(self)).items()
                if one.inverted is not None and getattr(self, name) is None
                and not (edits and one.edited)}  # fmt: skip
        return self.with_values({k: steps if v == INVERSION else v for k, v in said.items()})


_known: list[type[Settings]] = [Settings]


def known() -> type[Settings]:
    """The class of settings whose knobs the pipeline, the command line and the schema know."""
    return _known[-1]


def extend(kind: Kind) -> Kind:
    """Have them know the knobs of a subclass too; a decorator, for packages that add some.

    Raises:
        ValueError: it is no subclass of the settings that are known, `known()`: those of another
            package would be lost.
    """
    if not (isinstance(kind, type) and issubclass(kind, known())):
        raise ValueError(f"{shown(kind)} must be a subclass of {known().__name__} (see known())")
    _known.append(kind)
    return kind


def check_settings(settings: Settings) -> Settings:
    """Refuse what is no `Settings`."""
    return of_kind(settings, Settings, "settings", "a Settings")


def joined(settings: Settings | None, overrides: dict[str, Any]) -> Settings:
    """The settings of a call: those that are given, or none, with the fields given by name."""
    settings = known()() if settings is None else check_settings(settings)
    return settings.with_values(overrides) if overrides else settings


def flags() -> dict[str, str]:
    """The flag, without its dashes, of each knob."""
    return {name: flag_of(name, one) for name, one in knobs_of(known()).items()}


# ---- what presets and models say -----------------------------------------------------------------

PRESETS |= {
    "turbo": Preset(  # one evaluation of each network but the prior, where there is a student
        prior={"steps": 8, "sampler": "dpm++", "eta": 0.0},
        decoder={"steps": 5, "sampler": "dpm++", "eta": 0.0, "guidance_interval": (1.0, math.inf)},
        super_res={"steps": 1, "sampler": "ddim"},
        super_res_1024={"steps": 1, "sampler": "ddim"},
        decoder_few_steps={"steps": 1},
    ),
    "fast": Preset(  # a fifth of `default`'s operations, or less
        prior={"steps": 12, "sampler": "dpm++", "eta": 0.0},
        decoder={"steps": 9, "sampler": "dpm++", "eta": 1.0, "guidance_interval": (1.0, math.inf)},
        decoder_distilled={"steps": 14, "sampler": "dpm++", "eta": 1.0},
        decoder_few_steps={"steps": 4},
        super_res={"steps": 1, "sampler": "ddim", "reuse": 2},
        super_res_1024={"steps": 1, "sampler": "ddim", "reuse": 2},
    ),
    "default": Preset({"steps": 25}, {"steps": 25}, {"steps": 7}, {"steps": 7}, yields=True),
    "paper": Preset({"steps": 64}, {"steps": 250}, {"steps": 27}, {"steps": 15}),
}


def preset(name: str) -> Preset:
    """A row of `PRESETS`, or a ValueError that names them."""
    return PRESETS[one_of(name, "preset", PRESETS)]


def resolve(
    stage: str, request: Settings, row: Row, model: Mapping[str, Any], yields: bool = False
) -> dict[str, Any]:
    """How a stage is sampled, by the names that `Sampling` has: the first that says it wins, of the
    request, the preset and the model.

    What nobody says is not in the result. A preset's value that belongs to its sampler
    (`Knob.beside`) does not count where the request says another one.

    Args:
        row: the preset's, of the stage.
        model: what it says of itself, by fields' names, see `model_says` and `of_prior`.
        yields: whether the model comes before the preset.
    """
    found: dict[str, Any] = {}
    for name, one in concerning(type(request), [stage]).items():
        key = one.row or name
        overruled = one.beside and getattr(request, one.beside) is not None
        of_all = None if _of_one(name, one) else model.get(name)
        own = model.get(_own_name(stage, name, one), of_all)
        rows = None if overruled else row.get(key)
        said = (getattr(request, name), *((own, rows) if yields else (rows, own)))
        value = next((value for value in said if value is not None), None)
        if value is not None:
            found[key] = value
    return found


def _of_one(name: str, one: Knob) -> bool:
    """Whether a model's word under the knob's name is of its first stage alone."""
    return name.startswith(f"{one.stages[0]}_")


def _own_name(stage: str, name: str, one: Knob) -> str:
    """What a model calls a knob where it says it of one stage."""
    return f"{stage}_{name.removeprefix(f'{one.stages[0]}_')}"


def published() -> dict[str, Any]:
    """What the published layout's models, which say nothing of themselves, are sampled with."""
    return {name: one.published for name, one in knobs_of(known()).items()
            if one.published is not None}  # fmt: skip


def model_says(noted: Any, where: str) -> dict[str, Any]:
    """What a model's index notes under `_defaults`, by argument name, checked.

    A knob of several stages can be said for one of them alone, `decoder_sampler`, and a prior's for
    one kind of prior: `autoregressive_prior_guidance_scale`.

    Args:
        where: how sentences name the note.

    Raises:
        ValueError: a key that no model says; a value that makes no sense.
    """
    says = {name: name for name, one in knobs_of(known()).items() if one.model}
    says |= {_own_name(stage, name, one): name for name, one in knobs_of(known()).items()
             if one.model and len(one.stages) > 1 for stage in one.stages}  # fmt: skip
    says |= {f"{kind}_{key}": name for kind in prior_kinds()[1:] for key, name in says.items()
             if key.startswith("prior_")}  # fmt: skip
    hints, knobs = hints_of(known()), knobs_of(known())
    entries = [
        (key, hints[name], field(default=None, metadata={"knob": knobs[name]}))
        for key, name in says.items()
    ]
    kind = make_dataclass("Defaults", entries, bases=(Knobs,), frozen=True, namespace={
        "__module__": "of models"})  # fmt: skip
    given = to_mapping(from_mapping(kind, noted, where))
    return {key: value for key, value in given.items() if value is not None}


def of_prior(model: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What a model says of one of its priors: of any but the first, what names its kind."""
    if kind == prior_kinds()[0]:
        return dict(model)
    prefix = f"{kind}_"
    own = {name.removeprefix(prefix): said for name, said in model.items() if prefix in name}
    return {name: said for name, said in model.items() if "prior_" not in name} | own


def schema() -> dict[str, Any]:
    """A JSON schema (draft 2020-12) of settings, for programs that send some."""
    return json_schema(known())


# ---- the table in docs/sampling.md ---------------------------------------------------------------

_BEGIN, _END = "<!-- knobs: written by `make knobs` -->\n\n", "\n<!-- end of knobs -->"


def with_table(text: str) -> str:
    """A text of documentation with the table of knobs between its marks as it is now."""
    before, rest = text.split(_BEGIN)
    return before + _BEGIN + markdown_table(Settings) + _END + rest.split(_END)[1]


def main() -> None:
    """`python -m unclip.pipeline.settings FILE`: write the table between the file's marks."""
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text()))


if __name__ == "__main__":
    main()
