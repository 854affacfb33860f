"""A student of few steps: guidance and most of the decoder's steps, learned by one network.

With K steps of DDIM (η = 0, trailing spacing) the process has K segments, each from a timestep t to
the next one b, the last to the data. The student, told K and the guidance scale s, learns the x_0
by which one step of DDIM leads from x_t to where the guided decoder's many steps would: to x_b. It
does so for K = 4, 2 and 1 (or from 8 on) at once, each K learning from the finer one:

- the finest by multistep consistency distillation (Heek et al., arXiv 2403.06807, section 3): one
  step of the guided decoder's, to t' in the segment, from where the student itself goes on to x_b;
- K by two jumps of what the student does with 2K, as progressive distillation has it (Salimans &
  Ho, arXiv 2202.00512), but in one network and one run, without a teacher for each halving.

The target is the x_0 that leads from x_t to x_b in one step,

    x̂_0 = (x_b - (σ_b / σ_t) x_t) / (α_b - α_t σ_b / σ_t),

computed with the average of the student's own weights. A K beyond the finest is asked at the
beginnings of segments alone, and is taught there alone; the finest half of the time, and in between
for the other half, which its consistency needs.

With `matching`, where K is 1, distribution matching is added (`students/matching.py`): it is for a
student that has learned the rest, from which such a run starts (`training.init`).

Shapes: N images, C × h × w in the decoder's space.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Annotated, Self

import torch
from torch import Tensor, nn

from unclip.batch import Batch
from unclip.config import Between, Checked, Probability
from unclip.diffusion.losses import LossConfig
from unclip.diffusion.prediction import Prediction
from unclip.diffusion.schedules import Schedule, spacing_trailing
from unclip.draws import first_row, uniform
from unclip.networks.unet import UNet
from unclip.stages.decoder import STUDENT, DecoderStage
from unclip.stages.decoder.student import FewStepStudent, load_student
from unclip.stages.students.learning import (
    LearnedScale,
    Lesson,
    StudentStage,
    check_scales,
    started_from,
    student_spec,
)
from unclip.stages.students.matching import matching_losses
from unclip.storage.folder import ModelFolder


@dataclass(frozen=True)
class FewStepSettings(Checked):
    """What is chosen about a student of few steps before it is trained."""

    # lowest and highest guidance scale that is learned
    guidance_scales: tuple[LearnedScale, LearnedScale] = (1.0, 10.0)
    # most steps that it learns to answer in; it learns the halves of that down to 1, too
    most_steps: Annotated[int, Between(2, 64)] = 4
    # steps of DDIM that the guided decoder would take; it takes one of them for each lesson
    teacher_steps: Annotated[int, Between(2, 1000)] = 32
    drop_text: Probability = 0.5  # probability that the caption is dropped, as for the decoder
    # weight of distribution matching where one step is learned, beside consistency; 0: none
    matching: Annotated[float, Between(0, 1000)] = 0.0
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scales(self.guidance_scales)
        if self.most_steps.bit_count() != 1:
            raise ValueError(f"most_steps is {self.most_steps}, but must be 2, 4, 8, 16, 32 or 64")
        if self.teacher_steps < self.most_steps:
            raise ValueError(
                f"teacher_steps is {self.teacher_steps}, but must be most_steps, "
                f"{self.most_steps}, or more"
            )

    @property
    def steps(self) -> tuple[int, ...]:
        """Numbers of steps that are learned, the most first."""
        return tuple(self.most_steps >> k for k in range(self.most_steps.bit_length()))


class FewStepStage(StudentStage):
    """The student, and the decoder that teaches it."""

    def __init__(self, network: UNet, teacher: DecoderStage, settings: FewStepSettings) -> None:
        student = FewStepStudent(network, settings.guidance_scales, settings.steps)
        super().__init__(student, teacher, settings.loss)
        self.settings, self.student, self.fake = settings, network, None
        if settings.matching:
            self.fake = UNet(teacher.network.decoder.config)
            self.fake.load_state_dict(teacher.network.decoder.state_dict())
            self.network = nn.ModuleDict({"student": network, "fake": self.fake})
        self.averaged: Callable[[], AbstractContextManager[None]] = nullcontext
        self.segments = Segments(self.process.schedule, settings.steps)

    @classmethod
    def build(cls, settings: FewStepSettings, teacher: DecoderStage) -> Self:
        """A student that starts as `teacher`'s U-Net.

        Raises:
            ValueError: the teacher predicts ε.
        """
        if teacher.process.config.prediction_type == "epsilon":
            raise ValueError(
                "the decoder predicts epsilon, from which few steps cannot be learned: x_0 is then "
                "what is left of pure noise, divided by next to nothing; train a decoder with "
                "--network.prediction-type sample or v_prediction"
            )
        return cls(started_from(teacher, 2), teacher, settings)

    @classmethod
    def warm_start(
        cls, settings: FewStepSettings, teacher: DecoderStage, origin: ModelFolder
    ) -> Self:
        """One that goes on from the student of a folder, with its scales and steps.

        Raises:
            ValueError: the folder's student is none of few steps, or of a decoder of other sizes.
        """
        found = load_student(origin, teacher.network.decoder.config, torch.float32)
        if not isinstance(found, FewStepStudent):
            raise ValueError(
                f"the {STUDENT} of {origin.path} has learned guidance alone; leave training.init "
                "out, and one of few steps starts as the decoder"
            )
        low, high = found.scales
        learned = replace(settings, guidance_scales=(low, high), most_steps=max(found.steps))
        return cls(found.network, teacher, learned)

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """How far the student's x_0 are from those that lead to the ends of its segments.

        Every other row learns the finest K, those between the coarser ones in turn.
        """
        lesson = self.lesson(batch, self.settings.drop_text, generator)
        beginnings = uniform(len(lesson.x0), generator=generator)
        steps = self._learned(len(lesson.x0), first_row(len(lesson.x0), generator))
        k = torch.tensor(steps).to(beginnings.device, non_blocking=True)
        between = (k == steps[0]) & (beginnings < 0.5)
        t = torch.where(between, lesson.t, self.segments.beginning(lesson.t, k))
        x_t = self.process.schedule.q_sample(lesson.x0, t, lesson.noise)
        with torch.no_grad(), self.averaged():
            right = self._right(lesson, x_t, t, k, steps)
        output = self._answer(lesson, x_t, t, k)
        predicted, _ = self.process.split(output.float(), self.teacher.space.channels)
        mse, errors = self.process.errors(predicted, right.x0, right.eps, t)
        apart = {
            f"mse_{n}": (mse * (k == n)).sum().detach() / steps.count(n) for n in sorted({*steps})
        }
        losses = {"loss": errors.mean(), "mse": mse.mean().detach(), **apart}
        if self.fake is None:
            return losses
        return self._matched(
            losses, lesson, self.process.predict(output, x_t, t).x0, steps, generator
        )

    def _matched(
        self,
        losses: dict[str, Tensor],
        lesson: Lesson,
        made: Tensor,
        steps: list[int],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The losses with distribution matching of the rows that learn one step, and what the fake
        network learns of them."""
        assert self.fake is not None
        _, t, noise = self.process.draw(lesson.x0, generator)  # of all rows, see `draws.py`
        ones = torch.tensor([i for i, n in enumerate(steps) if n == 1], dtype=torch.int64)
        if not len(ones):
            return losses
        rows = ones.to(t.device, non_blocking=True)
        taught, t, noise = lesson[rows], t[rows], noise[rows]

        def guided(x_t: Tensor) -> Prediction:
            return self.guided(taught, x_t, t, self.branches(taught, x_t, t))

        matching, fake = (
            loss.sum() / len(lesson.x0)
            for loss in matching_losses(
                made[rows], taught, t, noise, self.fake, guided, self.process
            )
        )
        total = losses["loss"] + self.settings.matching * matching + fake
        return {**losses, "loss": total, "matching": matching.detach(), "fake": fake.detach()}

    def _learned(self, count: int, first: int) -> list[int]:
        """The K of each of `count` rows of a batch, of which they are the `first` one and on."""
        finest, *coarser = self.settings.steps
        return [
            coarser[i // 2 % len(coarser)] if i % 2 else finest for i in range(first, first + count)
        ]

    def _right(
        self, lesson: Lesson, x_t: Tensor, t: Tensor, k: Tensor, steps: list[int]
    ) -> Prediction:
        """The x_0 that leads from x_t to the end of the segment in one step."""
        x0, eps, there = self._jumped(lesson, x_t, t, k, steps)
        b, finest = self.segments.end(t, k), self.settings.steps[0]
        # Where the jump ends within the segment, the student goes on from there.
        onwards = self._predicted(
            lesson,
            self._moved(x0, eps, there),
            there.clamp(min=0),
            torch.where(k == finest, k, 2 * k),
        )
        x_b = self._moved(onwards.x0, onwards.eps, b)
        alpha_t, sigma_t = self.process.schedule.alpha_sigma(t, x_t)
        alpha_b, sigma_b = self.process.schedule.alpha_sigma(b, x_t)
        ratio = sigma_b / sigma_t
        ends = (there == b)[:, None, None, None]
        x0_right = torch.where(ends, x0, (x_b - ratio * x_t) / (alpha_b - alpha_t * ratio))
        if self.process.config.clip_sample:
            most = self.process.config.clip_sample_range
            x0_right = x0_right.clamp(-most, most)
        return Prediction(x0_right, (x_t - alpha_t * x0_right) / sigma_t)

    def _jumped(
        self, lesson: Lesson, x_t: Tensor, t: Tensor, k: Tensor, steps: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The first jump from x_t: the prediction that it is made by, and the timesteps (N,) where
        it ends. The guided decoder's where the finest K is learned, else the student's with 2K."""
        finest = self.settings.steps[0]
        fine = torch.tensor([i for i, n in enumerate(steps) if n == finest], dtype=torch.int64)
        rest = torch.tensor([i for i, n in enumerate(steps) if n != finest], dtype=torch.int64)
        x0, eps, there = torch.empty_like(x_t), torch.empty_like(x_t), torch.empty_like(t)
        if len(fine):
            rows = fine.to(t.device, non_blocking=True)
            taught, stride = lesson[rows], len(self.process.schedule) // self.settings.teacher_steps
            branches = self.branches(taught, x_t[rows], t[rows])
            found = self.guided(taught, x_t[rows], t[rows], branches)
            x0[rows], eps[rows] = found.x0, found.eps
            there[rows] = torch.maximum(t[rows] - stride, self.segments.end(t[rows], k[rows]))
        if len(rest):
            rows = rest.to(t.device, non_blocking=True)
            found = self._predicted(lesson[rows], x_t[rows], t[rows], 2 * k[rows])
            x0[rows], eps[rows] = found.x0, found.eps
            there[rows] = self.segments.end(t[rows], 2 * k[rows])
        return x0, eps, there

    def _moved(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """DDIM with η = 0 to the timesteps t, -1 the data."""
        alpha, sigma = self.process.schedule.alpha_sigma(t, x0)
        return alpha * x0 + sigma * eps

    def _answer(self, lesson: Lesson, x_t: Tensor, t: Tensor, k: Tensor) -> Tensor:
        """The student's raw output (N, C or 2C, h, w)."""
        told = torch.stack([lesson.scale, k.to(lesson.scale.dtype)], dim=1)
        output: Tensor = self.student(
            lesson.seen(x_t), t, **lesson.conditional, guidance_scale=told
        )
        return output

    def _predicted(self, lesson: Lesson, x_t: Tensor, t: Tensor, k: Tensor) -> Prediction:
        """The same as sampling takes it, clipped."""
        return self.process.predict(self._answer(lesson, x_t, t, k), x_t, t)


class Segments:
    """The timesteps at which K steps begin and end, for each K that is learned.

    Args:
        steps: the values of K.
    """

    def __init__(self, schedule: Schedule, steps: tuple[int, ...]) -> None:
        # Row K: the beginnings, ascending behind the data's -1, and padded with the last one.
        self.table = torch.full((max(steps) + 1, max(steps) + 1), len(schedule) - 1)
        for k in steps:
            self.table[k, 0] = -1
            self.table[k, 1 : k + 1] = spacing_trailing(schedule, k).flip(0)

    def beginning(self, t: Tensor, k: Tensor) -> Tensor:
        """The timesteps (N,) at which the segments begin that t (N,) lie in, of K (N,) steps."""
        rows = self._rows(k)
        return rows.gather(1, torch.searchsorted(rows, t[:, None]))[:, 0]

    def end(self, t: Tensor, k: Tensor) -> Tensor:
        """Those at which they end: below t, -1 for the data."""
        rows = self._rows(k)
        return rows.gather(1, torch.searchsorted(rows, t[:, None]) - 1)[:, 0]

    def _rows(self, k: Tensor) -> Tensor:
        self.table = self.table.to(k.device)
        return self.table[k]


SPEC = student_spec(
    "few-step-decoder", FewStepSettings(), FewStepStage.build, FewStepStage.warm_start
)
