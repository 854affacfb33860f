"""The decoder's student in a model folder: one evaluation where guidance takes two."""

from dataclasses import dataclass, replace

import torch

from unclip.checks import shown
from unclip.config import Checked, Scale, from_mapping
from unclip.networks.unet import UNet, UNetConfig
from unclip.storage.folder import ModelFolder

STUDENT = "decoder_distilled"
_STUDENT_NOTE = f"_{STUDENT}"  # in the index: the guidance scales that the student has learned


@dataclass(frozen=True)
class Student:
    """A U-Net that gives the guided prediction at once, at scales in a range."""

    network: UNet
    scales: tuple[float, float]


def save_student(folder: ModelFolder, student: Student) -> None:
    """decoder_distilled, and the scales that it has learned."""
    with folder.publishing():
        folder.update_index({_STUDENT_NOTE: {"guidance_scales": list(student.scales)}})
        folder.save(
            STUDENT,
            ("diffusers", student.network.config.class_name),
            {"config.json": student.network.config.to_json()},
            student.network.state_dict(),
        )


@dataclass(frozen=True)
class _StudentNote(Checked):
    guidance_scales: tuple[Scale, Scale]


def load_student(folder: ModelFolder, teacher: UNetConfig, dtype: torch.dtype | None) -> Student:
    """The student of the folder's decoder, of which it differs by the scale's embedding alone."""
    where = str(folder.path / STUDENT)
    config = UNetConfig.from_json(folder.config(STUDENT), where)
    width = config.time_cond_proj_dim
    if width is None or replace(teacher, time_cond_proj_dim=width) != config:
        raise ValueError(
            f"{where} must have the sizes of the decoder, and a time_cond_proj_dim: they are not "
            "of one model"
        )
    noted = folder.index().get(_STUDENT_NOTE)
    if not isinstance(noted, dict):
        raise ValueError(
            f"{folder.path}: {_STUDENT_NOTE} is {shown(noted)}; it must be an object that says the "
            "guidance_scales"
        )
    note = from_mapping(_StudentNote, noted, f"{folder.path}: {_STUDENT_NOTE}")
    return Student(folder.load(STUDENT, UNet, config, dtype), note.guidance_scales)
