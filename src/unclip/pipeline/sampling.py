"""How each stage is sampled for a request: functions of a pipeline, which has them as methods."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Literal

from unclip.checks import Notice, many
from unclip.config import one_of
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.process import Diffusion
from unclip.diffusion.sampling import Sampling
from unclip.pipeline.inpainting import RESAMPLES
from unclip.pipeline.inputs import check_prompts
from unclip.pipeline.settings import (
    INPAINTING,
    STAGES,
    UPSAMPLING,
    Preset,
    Row,
    Settings,
    check_settings,
    of_prior,
    preset,
    resolve,
)
from unclip.stages.conditioning import TextCondition
from unclip.stages.decoder.student import FEW_STEP_SAMPLING, FewStepStudent
from unclip.stages.prior import Prior
from unclip.stages.upsampler import SAMPLED_AS, UpsamplerStage

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

_NO_PRIOR = "this model has no prior: it makes variations of images, not images for captions"


def sampling(pipe: "Pipeline", stage: str, settings: Settings, painting: bool = False) -> Sampling:
    """How a stage is sampled: what the request says, else its row of the preset, else the model.

    Args:
        stage: "prior", "decoder", "super_res" or "super_res_1024".
        painting: whether a part of the image is known.

    Raises:
        ValueError: no such stage; the settings ask for what this model does not have.
    """
    one_of(stage, "stage", STAGES)
    rows, model = preset(check_settings(settings).steps), pipe.defaults
    if stage == "prior":
        model = of_prior(model, _kind(pipe, settings))

    def said(row: Row) -> dict[str, Any]:
        yields = rows.yields and row is getattr(rows, stage)  # not those of students
        values = resolve(stage, settings, row, model, yields)
        if stage in UPSAMPLING and settings.super_res_num_inference_steps is None:
            values["steps"] = max(values["steps"], _least_steps(pipe, stage))
        return values

    values = said(getattr(rows, stage))
    if stage == "decoder":
        values = _of_student(pipe, settings, rows, said, painting) or values
        resamples = 1 if pipe.decoder.settings.inpainting else RESAMPLES
        values |= resolve(INPAINTING, settings, {"resamples": resamples}, {})
    return _sampling_of(values)


def _sampling_of(values: dict[str, Any]) -> Sampling:
    """What `resolve` found, of which `Sampling` and, with the prefix, `Guidance` take their own."""
    own = {field.name for field in fields(Sampling)}
    guiding = {f"guidance_{field.name}": field.name for field in fields(Guidance)}
    guidance = Guidance(**{guiding[key]: values[key] for key in values if key in guiding})
    return Sampling(guidance=guidance, **{key: values[key] for key in values if key in own})


def scaled(samplings: Sequence[Sampling]) -> Sampling:
    """Samplings that differ in their guidance scale alone as one, with a scale for each."""
    first = samplings[0]
    scales = [one.guidance.scale for one in samplings]
    if len(set(scales)) == 1:
        return first
    return replace(first, guidance=replace(first.guidance, scale=tuple(scales)))  # type: ignore[arg-type]


def _of_student(
    pipe: "Pipeline",
    settings: Settings,
    rows: Preset,
    said: Callable[[Row], dict[str, Any]],
    painting: bool,
) -> dict[str, Any] | None:
    """How the decoder's student is sampled, where it answers; ValueError if it is asked for and
    cannot."""
    student, asked = pipe.decoder.student, settings.guidance_kind == "distilled"
    row: Row | None = rows.decoder_distilled or (rows.decoder if asked else None)
    few, masks = isinstance(student, FewStepStudent), pipe.decoder.network.masks
    if student and painting and (masks or (few and not pipe.decoder.settings.inpainting)):
        # A student sees no mask channels that are apart, and RePaint's way goes through many steps.
        if asked:
            raise ValueError(
                "this model's student has not learned to complete images: leave guidance_kind out"
            )
        return None
    if isinstance(student, FewStepStudent):
        most = {"steps": max(student.steps)}
        row = rows.decoder_few_steps or (most if asked else None)
        row = row and {**row, **FEW_STEP_SAMPLING}
    if row is None or not (asked or settings.guidance_kind is None):
        return None
    values = {**said(row), "guidance_distilled": True}
    if asked:
        pipe.decoder.check_distilled(_sampling_of(values))
        if settings.negative_prompt:
            raise ValueError(
                "distilled guidance has learned to lead away from the empty caption alone: leave "
                "out the negative prompt, or guidance_kind"
            )
    # A negative prompt needs both branches.
    if settings.negative_prompt or not pipe.decoder.distils(_sampling_of(values)):
        return None
    return values


def null_for(pipe: "Pipeline", stage: str, settings: Settings, sampling: Sampling) -> TextCondition:
    """What guidance leads a stage away from: one caption for all images, or one for each.

    A `Notice` says where there is a negative prompt, but no guidance.
    """
    negative = settings.negative_prompt
    if not negative:
        return pipe.null
    if sampling.guidance.scale == 1:
        warnings.warn(
            f"the {stage}'s guidance scale is 1, at which a negative prompt does nothing in it",
            Notice, stacklevel=2,
        )  # fmt: skip
    if pipe._negative is None or pipe._negative[0] != negative:
        texts = [negative] if isinstance(negative, str) else list(negative)
        pipe._negative = negative, pipe.clip.text(texts)
    return pipe._negative[1]


def check_negative(pipe: "Pipeline", settings: Settings, prompts: int) -> None:
    """Refuse negative prompts that are no captions, or not one for each of several prompts."""
    negative = settings.negative_prompt
    if not negative:
        return
    check_prompts(negative, empty=True, name="negative prompt")
    pipe.captions(negative, empty=True)
    if isinstance(negative, tuple) and len(negative) != prompts:
        raise ValueError(
            f"{len(negative)} negative prompts were given for {many(prompts, 'prompts')}"
        )


def _least_steps(pipe: "Pipeline", stage: str) -> int:
    """Of a preset: see `Preset`."""
    named = (one for one in pipe.upsamplers if stage_name(one) == stage)
    predicts_noise = any(one.process.config.prediction_type == "epsilon" for one in named)
    return 2 if predicts_noise else 1


def prior_for(pipe: "Pipeline", settings: Settings) -> Prior:
    """The prior that these settings ask for, or the model's own.

    Raises:
        ValueError: the model has no such prior, or none at all.
    """
    return pipe.priors[_kind(pipe, settings)]


def _kind(pipe: "Pipeline", settings: Settings) -> str:
    kinds = list(pipe.priors)
    if not kinds:
        raise ValueError(_NO_PRIOR)
    kind: str = check_settings(settings).prior or pipe.defaults.get("prior") or kinds[0]
    if kind not in kinds:
        raise ValueError(f"this model has no {kind} prior, only the {kinds[0]} one")
    return kind


def evaluations(
    pipe: "Pipeline",
    settings: Settings,
    start: Literal["prior", "decoder"] = "prior",
    *,
    painting: bool = False,
    each: int = 1,
) -> int:
    """Sampling steps of an image over all stages, for progress bars.

    Args:
        start: the first stage: the prior for captions, the decoder for variations.
        painting: whether a part of the image is known.
        each: candidates that prior and decoder make for it.

    Raises:
        ValueError: the settings name what this model or package does not have.
    """
    one_of(start, "start", ("prior", "decoder"))
    upsamplers = upsamplers_to(pipe, check_settings(settings).size)
    made = steps_of(pipe, "decoder", pipe.decoder.process, settings, painting)
    enlarged = sum(steps_of(pipe, stage_name(one), one.process, settings) for one in upsamplers)
    if start == "prior" and pipe.decoder.needs_prior:
        made += pipe.prior_for(settings).steps_for(pipe.sampling("prior", settings))
    return each * made + enlarged


def steps_of(
    pipe: "Pipeline", stage: str, process: Diffusion, settings: Settings, painting: bool = False
) -> int:
    """Of a stage by diffusion, with those that inpainting goes through again; `ValueError` for more
    than its process has."""
    sampling = pipe.sampling(stage, settings, painting)
    return len(process.timesteps(sampling)) * (sampling.resamples if painting else 1)


def stage_name(upsampler: UpsamplerStage) -> str:
    """What settings and presets call an upsampler."""
    return SAMPLED_AS[upsampler.component]


def upsamplers_to(pipe: "Pipeline", size: int | None) -> list[UpsamplerStage]:
    """Those that make images of this size, or of the largest; ValueError if none does."""
    if size is None:
        return pipe.upsamplers
    if size not in pipe.sizes:
        made = ", ".join(map(str, pipe.sizes))
        raise ValueError(f"this model makes images of {made} pixels a side, not {size}")
    return pipe.upsamplers[: pipe.sizes.index(size)]
