"""Guidance distillation: a student of the decoder, one evaluation where guidance takes two.

Meng et al. (arXiv 2210.03142, section 3.1): beside x_t, t and the condition, the student is given
the guidance scale s, and learns the prediction that the decoder's two branches make with it,

    E || student(x_t, t, z_i, y, s) - [uncond + s (cond - uncond)] ||²,

for timesteps and scales drawn at random. It starts as the decoder, which stays as it is. The guided
prediction is treated as data: clipped where sampling clips it, and its errors are weighted as
errors of data are. Guidance leaves the learned variance alone, and the student learns it as the
decoder did.

Shapes: N images, H × W pixels at the decoder's resolution.
"""

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from unclip.batch import Batch
from unclip.config import Checked, Probability
from unclip.diffusion.losses import LossConfig
from unclip.networks.unet import UNet
from unclip.stages.decoder import DecoderStage, GuidanceStudent
from unclip.stages.students.learning import (
    LearnedScale,
    StudentStage,
    check_scales,
    started_from,
    student_spec,
)


@dataclass(frozen=True)
class DistillationSettings(Checked):
    """What is chosen about a student before it is trained."""

    # lowest and highest guidance scale that is learned
    guidance_scales: tuple[LearnedScale, LearnedScale] = (1.0, 10.0)
    drop_text: Probability = 0.5  # probability that the caption is dropped, as for the decoder
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scales(self.guidance_scales)


class DistillationStage(StudentStage):
    """The student, and the decoder that teaches it."""

    def __init__(
        self, network: UNet, teacher: DecoderStage, settings: DistillationSettings
    ) -> None:
        student = GuidanceStudent(network, settings.guidance_scales)
        super().__init__(student, teacher, settings.loss)
        self.settings = settings

    @classmethod
    def build(cls, settings: DistillationSettings, teacher: DecoderStage) -> Self:
        """A student that starts as `teacher`'s U-Net."""
        return cls(started_from(teacher, 1), teacher, settings)

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """How far the student's predictions are from the guided ones, with captions dropped."""
        lesson = self.lesson(batch, self.settings.drop_text, generator)
        process, channels = self.process, self.teacher.space.channels
        t, noise = lesson.t, lesson.noise
        x_t = process.schedule.q_sample(lesson.x0, t, noise)
        branches = self.branches(lesson, x_t, t)
        right = self.guided(lesson, x_t, t, branches)
        seen = lesson.seen(x_t)
        output = self.network(seen, t, **lesson.conditional, guidance_scale=lesson.scale)
        predicted, fraction = process.split(output.float(), channels)
        mse, errors = process.errors(predicted, right.x0, right.eps, t)
        losses = {"loss": errors.mean(), "mse": mse.mean().detach()}
        cond = branches[0][:, :channels].float()
        return process.with_bound(losses, cond, fraction, lesson.x0, noise, t)


SPEC = student_spec("distilled-decoder", DistillationSettings(), DistillationStage.build)
