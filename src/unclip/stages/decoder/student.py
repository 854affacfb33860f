"""The decoder's student in a model folder: one evaluation where guidance takes two."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from unclip.checks import shown
from unclip.config import Checked, Scale, from_mapping
from unclip.diffusion.sampling import Plan
from unclip.networks.unet import UNet, UNetConfig
from unclip.stages.decoder.denoising import answers
from unclip.stages.decoder.protocols import Branches
from unclip.storage.folder import ModelFolder

STUDENT = "decoder_distilled"
STUDENT_NOTE = f"_{STUDENT}"  # in the index: the guidance scales that the student has learned


@dataclass(frozen=True)
class GuidanceStudent:
    """A U-Net that gives the guided prediction at once, at scales in a range (a `Student`)."""

    network: UNet
    scales: tuple[float, float]

    def knows(self, scale: float) -> bool:
        low, high = self.scales
        return low <= scale <= high

    def check(self, scale: float) -> None:
        low, high = self.scales
        if not self.knows(scale):
            raise ValueError(
                f"distilled guidance at scale {scale:g} was asked for, but this model's {STUDENT} "
                f"knows scales from {low:g} to {high:g}: leave it out, and both branches are "
                "computed"
            )

    def takes(self, plan: Plan) -> Callable[[float], bool]:
        """What is guided; the decoder answers the rest, as it does without guidance."""
        return plan.guided

    def answers(
        self, timesteps: Sequence[float], scale: float, given: Mapping[str, Any]
    ) -> Branches:
        return answers(self.network, timesteps, {**given, "guidance_scale": scale})

    def save(self, folder: ModelFolder) -> None:
        """decoder_distilled, and the scales that it has learned."""
        with folder.publishing():
            folder.update_index({STUDENT_NOTE: {"guidance_scales": list(self.scales)}})
            folder.save(
                STUDENT,
                ("diffusers", self.network.config.class_name),
                {"config.json": self.network.config.to_json()},
                self.network.state_dict(),
            )


@dataclass(frozen=True)
class _StudentNote(Checked):
    guidance_scales: tuple[Scale, Scale]


def load_student(
    folder: ModelFolder, teacher: UNetConfig, dtype: torch.dtype | None
) -> GuidanceStudent:
    """The student of the folder's decoder, of which it differs by the scale's embedding alone."""
    where = str(folder.path / STUDENT)
    config = UNetConfig.from_json(folder.config(STUDENT), where)
    width = config.time_cond_proj_dim
    if width is None or replace(teacher, time_cond_proj_dim=width) != config:
        raise ValueError(
            f"{where} must have the sizes of the decoder, and a time_cond_proj_dim: they are not "
            "of one model"
        )
    noted = folder.index().get(STUDENT_NOTE)
    if not isinstance(noted, dict):
        raise ValueError(
            f"{folder.path}: {STUDENT_NOTE} is {shown(noted)}; it must be an object that says the "
            "guidance_scales"
        )
    note = from_mapping(_StudentNote, noted, f"{folder.path}: {STUDENT_NOTE}")
    return GuidanceStudent(folder.load(STUDENT, UNet, config, dtype), note.guidance_scales)
