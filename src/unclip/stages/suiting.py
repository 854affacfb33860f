"""What suits a stage: how it is sampled by default, by what it predicts and can do without.

A stage that training publishes notes it in the model folder, under `_defaults`, by the pipeline's
argument names. Everybody may change it there: `unclip tune` does, by measuring. Folders that say
nothing are sampled as the published models are.
"""

from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable

from unclip.diffusion.schedules import PredictionType
from unclip.storage.folder import ModelFolder

DEFAULTS = "_defaults"
"""In the index: guidance scales, samplers and η, by argument name."""
TUNED = "_tuned"
"""In the index: which of the defaults were chosen by measuring, and how (`unclip tune`)."""
SAYS = "says"
"""Of that note: the defaults as they were chosen."""

# Sampler and η. Noise at every step lets small errors be forgotten (docs/experiments.md, 2026-11-21
# and 2026-11-26). The published models' DDPM is for variances that were learned long.
_SAMPLERS: dict[PredictionType, tuple[str, float]] = {
    "sample": ("ddim", 1.0),
    "v_prediction": ("ddim", 1.0),
    "epsilon": ("dpm++", 1.0),
}
PRIOR_SCALE, DECODER_SCALE = 1.0, 2.0
"""Guidance of networks that can be guided."""


@runtime_checkable
class Sampled(Protocol):
    """A stage that images or embeddings are drawn from."""

    def suits(self) -> Mapping[str, Any]:
        """How it is sampled by default, by the pipeline's argument names: all that belong to it."""
        ...


def by_diffusion(stage: str, prediction: PredictionType, scale: float | None) -> dict[str, Any]:
    """What suits a stage that is sampled by diffusion.

    Args:
        stage: as arguments begin, "prior", "decoder", "super_res" or "super_res_1024".
        scale: of its guidance; 1 where it has never seen that its condition is missing, None where
            it is never guided. Such a stage is an upsampler, whose small image fixes nearly
            everything: noise would only be in the way.
    """
    sampler, eta = _SAMPLERS[prediction]
    if scale is None:
        return {f"{stage}_sampler": "ddim", f"{stage}_eta": 0.0}
    return {f"{stage}_guidance_scale": scale, f"{stage}_sampler": sampler, f"{stage}_eta": eta}


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
    said = _said(index)
    if not anew and own.keys() & said.keys():
        return
    folder.update_index({DEFAULTS: said | own, **_less_tuned(index, own)})


def take(folder: ModelFolder, origin: Mapping[str, Any], stage: str) -> None:
    """Have the model folder say of a stage what another model's index says, which it is taken from.

    Args:
        stage: as arguments begin.
    """
    names = ("guidance_scale", "sampler", "eta")
    theirs, index = _said(origin), folder.index()
    said = {key: value for key, value in _said(index).items()
            if key not in {f"{stage}_{name}" for name in names}}  # fmt: skip
    taken = {f"{stage}_{name}": theirs.get(f"{stage}_{name}", theirs.get(name)) for name in names}
    own = {key: value for key, value in taken.items() if value is not None}
    if own or said != _said(index):
        folder.update_index({DEFAULTS: said | own, **_less_tuned(index, taken)})


def _said(index: Mapping[str, Any]) -> dict[str, Any]:
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
