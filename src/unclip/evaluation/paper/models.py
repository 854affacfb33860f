"""The models that the paper's tables compare, from a folder that holds one folder for each.

| folder | what it is | if it is missing |
|---|---|---|
| `bundled` | unCLIP: CLIP, priors, decoder and upsamplers | the bundled model |
| `glide` | a decoder of captions alone (`recipes/bundled-glide.toml`) | its rows are left out |
| `text-embedding` | a decoder of z_t (`recipes/bundled-text-embedding.toml`) | its rows are left
out | | `ar-prior` | an autoregressive prior for `bundled`'s CLIP | that of `bundled` |

All decoders share the upsampler of `bundled`, and are sampled as its folder says.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from unclip.checks import printable
from unclip.evaluation.judge.network import Judge
from unclip.pipeline.loading import read_defaults
from unclip.pipeline.pipeline import Pipeline
from unclip.stages.autoregressive_prior import COMPONENT as AR_PRIOR
from unclip.stages.autoregressive_prior import AutoregressivePriorStage
from unclip.stages.decoder import DecoderStage
from unclip.storage.folder import ModelFolder
from unclip.storage.folder import bundled as shipped

BUNDLED: Final = "bundled"
GLIDE: Final = "glide"
TEXT_EMBEDDING: Final = "text-embedding"
MODELS: Final = {BUNDLED: "image", GLIDE: "caption", TEXT_EMBEDDING: "text_embedding"}
"""By folder, what the decoder is conditioned on."""
_TOWER: Final = "text_encoder"


class Models:
    """The models of a folder, opened.

    Args:
        folder: that holds them; the bundled model alone if left out.

    Raises:
        ValueError: one cannot be opened, is another kind of model, or another CLIP's.
    """

    def __init__(
        self, folder: Path | None = None, device: str = "auto", dtype: str | torch.dtype = "auto"
    ) -> None:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"there is no folder {printable(str(folder))} of models")
        self._pipes: dict[tuple[str, bool], Pipeline] = {}
        self.fingerprints: dict[str, str] = {}
        for name, condition in MODELS.items():
            place = folder / name if folder is not None and (folder / name).is_dir() else None
            if place is None and name != BUNDLED:
                continue
            pipe = Pipeline.from_pretrained(place, device=device, dtype=dtype)
            told = pipe.decoder.settings.condition
            if told != condition:
                raise ValueError(f"{place}: its decoder's condition is {told}, not {condition}")
            self._pipes[name, False] = pipe
            pipe.defaults = dict(self.bundled.defaults)
            self.fingerprints[name] = pipe.fingerprint
            if pipe.decoder.size != self.bundled.decoder.size:
                raise ValueError(
                    f"{place}: its decoder makes {pipe.decoder.size} pixels, that of {BUNDLED} "
                    f"{self.bundled.decoder.size}: they are not compared"
                )
        self.folder = (
            folder / BUNDLED if folder and (folder / BUNDLED).is_dir() else shipped("model")
        )
        if folder is not None and (folder / "ar-prior").is_dir():
            self._take_ar_prior(folder / "ar-prior")

    @property
    def bundled(self) -> Pipeline:
        return self._pipes[BUNDLED, False]

    def has(self, name: str) -> bool:
        return (name, False) in self._pipes

    def of(self, name: str, given: str = "prior") -> Pipeline:
        """A model; given "nothing" in z_i's place, the bundled one as a decoder of captions."""
        blind = given == "nothing"
        if (name, blind) not in self._pipes:
            self._pipes[name, True] = _captions_only(self._pipes[name, False])
        return self._pipes[name, blind]

    def to(self, judge: Judge) -> Judge:
        """The judge, where the models are."""
        return judge.to(self.bundled.device)

    def _take_ar_prior(self, place: Path) -> None:
        """Its autoregressive prior in the bundled model's, if it is for the same CLIP."""
        model, pipe = ModelFolder(place), self.bundled
        if model.has(_TOWER) and model.fingerprint(_TOWER) != ModelFolder(self.folder).fingerprint(
            _TOWER
        ):
            raise ValueError(f"{place}: its prior was trained with another CLIP than {BUNDLED}'s")
        prior = AutoregressivePriorStage.load(model, pipe.clip, _dtype_of(pipe))
        prior.network.requires_grad_(False).eval().to(pipe.device)
        pipe.priors[prior.KIND] = prior
        own = read_defaults(model).items()
        pipe.defaults |= {key: value for key, value in own if key.startswith(prior.KIND)}
        self.fingerprints["ar-prior"] = model.fingerprint(AR_PRIOR)


def _captions_only(pipe: Pipeline) -> Pipeline:
    """The same model, whose decoder is given what it has learned for a z_i that is left out."""
    stage = pipe.decoder
    settings = replace(stage.settings, condition="caption")
    decoder = DecoderStage(stage.network, stage.clip, stage.process.config, settings)
    return Pipeline(pipe.clip, None, decoder, pipe.upsamplers, defaults=pipe.defaults)


def _dtype_of(pipe: Pipeline) -> torch.dtype:
    return next(pipe.decoder.network.parameters()).dtype
