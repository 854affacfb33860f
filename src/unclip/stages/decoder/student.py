"""The decoder's student in a model folder: what answers at fewer evaluations than the decoder.

A folder has one, of one of two kinds: of guidance, one evaluation where the decoder takes two, or
of few steps, which has learned guidance and most of the steps beside. What it has learned, the
folder's index notes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch

from unclip.checks import shown
from unclip.config import Checked, Scale, Steps, from_mapping
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.sampling import Plan, Sampling
from unclip.networks.unet import UNet, UNetConfig
from unclip.stages.decoder.denoising import answers
from unclip.stages.decoder.protocols import Branches, Student
from unclip.storage.folder import ModelFolder

STUDENT = "decoder_distilled"
STUDENT_NOTE = f"_{STUDENT}"  # in the index: what the student has learned
FEW_STEP_SAMPLING: Final[Mapping[str, Any]] = {"sampler": "ddim", "eta": 0.0, "spacing": "trailing"}
"""How a student of few steps is sampled, whatever their number: from the beginning of one segment
of the process to that of the next."""


@dataclass(frozen=True)
class GuidanceStudent:
    """A U-Net that gives the guided prediction at once, at scales in a range (a `Student`)."""

    network: UNet
    scales: tuple[float, float]

    def knows(self, scale: float) -> bool:
        low, high = self.scales
        return low <= scale <= high

    def check(self, sampling: Sampling) -> None:
        scale = sampling.guidance.one_scale
        low, high = self.scales
        if not self.knows(scale):
            raise ValueError(
                f"distilled guidance at scale {scale:g} was asked for, but this model's {STUDENT} "
                f"knows scales from {low:g} to {high:g}: leave it out, and both branches are "
                "computed"
            )

    def samples(self, sampling: Sampling) -> bool:
        """At scale 1, where the decoder itself takes one evaluation, too."""
        scale = sampling.guidance.one_scale
        return scale == 1 or self.knows(scale)

    def samplings(self, guidance: Guidance) -> list[Sampling]:
        """Ways to sample with it that show what it has learned."""
        return [Sampling(25, "ddim", guidance)]

    def takes(self, plan: Plan) -> Callable[[float], bool]:
        """What is guided; the decoder answers the rest, as it does without guidance."""
        return plan.guided

    def answers(
        self, timesteps: Sequence[float], scale: float, given: Mapping[str, Any]
    ) -> Branches:
        return answers(self.network, timesteps, {**given, "guidance_scale": scale})

    @property
    def note(self) -> dict[str, Any]:
        return {"guidance_scales": list(self.scales)}

    def save(self, folder: ModelFolder) -> None:
        """decoder_distilled, and what it has learned."""
        with folder.publishing():
            folder.update_index({STUDENT_NOTE: self.note})
            folder.save(
                STUDENT,
                ("diffusers", self.network.config.class_name),
                {"config.json": self.network.config.to_json()},
                self.network.state_dict(),
            )


@dataclass(frozen=True)
class FewStepStudent(GuidanceStudent):
    """A U-Net that answers in few steps of DDIM, each through a whole segment of the process, with
    guidance at scales in a range.

    It is told the scale and the number of steps.

    Args:
        steps: numbers of them that it has learned.
    """

    steps: tuple[int, ...]

    def samples(self, sampling: Sampling) -> bool:
        guidance = sampling.guidance
        asked = {name: getattr(sampling, name) for name in FEW_STEP_SAMPLING}
        everywhere = guidance.interval in (None, (0.0, math.inf))
        return (
            self.knows(guidance.one_scale)
            and guidance.one_scale != 1  # nothing is guided then, and the decoder is asked
            and sampling.steps in self.steps
            and asked == FEW_STEP_SAMPLING
            and everywhere
            and not guidance.rescale
        )

    def check(self, sampling: Sampling) -> None:
        super().check(sampling)
        if not self.samples(sampling):
            *others, last = map(str, sorted(self.steps))
            numbers = f"{', '.join(others)} or {last}" if others else last
            raise ValueError(
                f"distilled guidance was asked for, but this model's {STUDENT} answers in "
                f"{numbers} steps of DDIM with η = 0 and trailing spacing, guided at all noise "
                "levels and without guidance_rescale: ask for these, or leave guidance_kind out"
            )

    def samplings(self, guidance: Guidance) -> list[Sampling]:
        return [Sampling(n, guidance=guidance, **FEW_STEP_SAMPLING) for n in self.steps]

    def takes(self, plan: Plan) -> Callable[[float], bool]:
        """All."""
        return lambda t: True

    def answers(
        self, timesteps: Sequence[float], scale: float, given: Mapping[str, Any]
    ) -> Branches:
        told = (scale, float(len(timesteps)))
        return answers(self.network, timesteps, {**given, "guidance_scale": told})

    @property
    def note(self) -> dict[str, Any]:
        return {**super().note, "steps": list(self.steps)}


@dataclass(frozen=True)
class _StudentNote(Checked):
    guidance_scales: tuple[Scale, Scale]
    steps: tuple[Steps, ...] = field(default=())


def load_student(folder: ModelFolder, teacher: UNetConfig, dtype: torch.dtype | None) -> Student:
    """The student of the folder's decoder, of which it differs by what it is told alone."""
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
    network = folder.load(STUDENT, UNet, config, dtype)
    if note.steps:
        return FewStepStudent(network, note.guidance_scales, note.steps)
    return GuidanceStudent(network, note.guidance_scales)
