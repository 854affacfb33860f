"""What suits a stage: how it is sampled by default, by what it has learned.

A stage that training publishes notes it in the model folder, under `_defaults`, by the pipeline's
argument names. Everybody may change it there: `unclip tune` does, by measuring. Folders that say
nothing are sampled as the published models are.
"""

from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable

from unclip.storage.folder import ModelFolder

DEFAULTS = "_defaults"
"""In the index: guidance scales, samplers, η and numbers of steps, by argument name."""
_SAID = ("guidance_scale", "sampler", "eta", "num_inference_steps")
"""What a folder says of one stage: all of it goes when another network takes the stage's place."""
TUNED = "_tuned"
"""In the index: which of the defaults were chosen by measuring, and how (`unclip tune`)."""
SAYS = "says"
"""Of that note: the defaults as they were chosen."""

# Sampler and η, as measured on networks that predict x_0 (docs/experiments.md, 2026-11-26). None
# asks for learned variances, which only predictions of ε have and only long trainings make useful;
# DPM-Solver++ takes whatever is predicted as x_0. A small image fixes nearly all of a large one:
# noise would be in the way.
_PRIOR, _DECODER, _UPSAMPLER = ("ddim", 1.0), ("dpm++", 0.0), ("ddim", 0.0)
PRIOR_SCALE, DECODER_SCALE = 1.0, 2.0
"""Guidance of networks that can be guided."""


@runtime_checkable
class Sampled(Protocol):
    """A stage that images or embeddings are drawn from."""

    def suits(self) -> Mapping[str, Any]:
        """How it is sampled by default, by the pipeline's argument names: all that belong to it."""
        ...


def of_prior(guidable: bool) -> dict[str, Any]:
    """What suits a diffusion prior; one that has seen no caption missing is not guided."""
    return _said("prior", _PRIOR) | {"prior_guidance_scale": PRIOR_SCALE if guidable else 1.0}


def of_decoder(guidable: bool) -> dict[str, Any]:
    """What suits a decoder; one that has not seen its condition missing is not guided."""
    return _said("decoder", _DECODER) | {
        "decoder_guidance_scale": DECODER_SCALE if guidable else 1.0
    }


def of_upsampler(stage: str) -> dict[str, Any]:
    """What suits an upsampler, "super_res" or "super_res_1024", which is never guided."""
    return _said(stage, _UPSAMPLER)


def _said(stage: str, sampler: tuple[str, float]) -> dict[str, Any]:
    return {f"{stage}_sampler": sampler[0], f"{stage}_eta": sampler[1]}


def note(folder: ModelFolder, stage: Any, anew: bool = True) -> None:
    """Write what suits a stage into the model folder, for whoever samples it.

    What is said of other stages stays, and so does what is said of all.

    Args:
        stage: nothing is written of one that is never sampled.
        anew: whether it takes another's place, whose defaults go; else they stay where there are
            any, as somebody may have chosen them since.
    """
    if not isinstance(stage, Sampled):
        return
    own, index = dict(stage.suits()), folder.index()
    said = _defaults(index)
    if not anew and own.keys() & said.keys():
        return
    named = {key.removesuffix(f"_{name}") for key in own for name in _SAID if key.endswith(name)}
    said = {key: value for key, value in said.items() if key not in _all_of(named)}
    folder.update_index({DEFAULTS: said | own, **_less_tuned(index, own)})


def take(folder: ModelFolder, origin: Mapping[str, Any], stage: str) -> None:
    """Have the model folder say of a stage what another model's index says, which it is taken from.

    Args:
        stage: as arguments begin.
    """
    theirs, index = _defaults(origin), folder.index()
    said = {key: value for key, value in _defaults(index).items() if key not in _all_of({stage})}
    taken = {f"{stage}_{name}": theirs.get(f"{stage}_{name}", theirs.get(name)) for name in _SAID}
    own = {key: value for key, value in taken.items() if value is not None}
    if own or said != _defaults(index):
        folder.update_index({DEFAULTS: said | own, **_less_tuned(index, taken)})


def _all_of(stages: Collection[str]) -> set[str]:
    """Every key that a folder may say of stages, as arguments begin."""
    return {f"{stage}_{name}" for stage in stages for name in _SAID}


def _defaults(index: Mapping[str, Any]) -> dict[str, Any]:
    """An index's defaults; none where they make no sense, which is refused at opening."""
    said = index.get(DEFAULTS)
    return dict(said) if isinstance(said, dict) else {}


def _less_tuned(index: Mapping[str, Any], gone: Collection[str]) -> dict[str, Any]:
    """The note of what was chosen by measuring, without some of it, for the index."""
    tuned = index.get(TUNED)
    if not isinstance(tuned, dict) or not isinstance(tuned.get(SAYS), dict):
        return {}
    left = {key: value for key, value in tuned[SAYS].items() if key not in gone}
    return {TUNED: {**tuned, SAYS: left}}
