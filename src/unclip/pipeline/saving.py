"""A pipeline written as a model folder: a function of a pipeline, which has it as a method."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unclip.acceleration.offload import is_offloaded
from unclip.files import as_path, private_folder
from unclip.pipeline.loading import CLASSES, TEXT_TO_IMAGE, VARIATION
from unclip.storage.folder import ModelFolder

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline


def save_pretrained(pipe: "Pipeline", folder: str | Path) -> None:
    """See `Pipeline.save_pretrained`."""
    folder = as_path(folder, "folder")
    if pipe.dtype == torch.int8:
        raise ValueError("a model in int8 cannot be saved; open it in another precision")
    if is_offloaded_model(pipe):
        raise ValueError("an offloaded model is not all in memory; open it without offload")
    try:
        if folder.exists():
            _save(pipe, ModelFolder(folder))
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        with private_folder(folder) as private:
            _save(pipe, ModelFolder(private / folder.name))
            (private / folder.name).rename(folder)
    except OSError as error:
        raise ValueError(f"cannot write the model {folder}: {error.strerror}") from None


def _save(pipe: "Pipeline", model: ModelFolder) -> None:
    priors, defaults = pipe.priors, dict(pipe.defaults)
    if defaults.get("prior") not in priors:
        defaults.pop("prior", None)
    kind = TEXT_TO_IMAGE if priors or not pipe.decoder.needs_prior else VARIATION
    with model.publishing(anew=CLASSES):
        pipe.clip.save(model)
        for prior in priors.values():
            prior.save(model)
        pipe.decoder.save(model)
        for upsampler in pipe.upsamplers:
            upsampler.save(model)
        model.update_index({**pipe._notes, "_class_name": kind, "_defaults": defaults})


def is_offloaded_model(pipe: "Pipeline") -> bool:
    """Whether the weights are on the disk, but for those of one component at most."""
    return is_offloaded(pipe.decoder.network) or is_offloaded(pipe.clip.text_encoder)
