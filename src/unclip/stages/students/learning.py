"""What the decoder's students share in training: the teacher, what both are given, and the folder.

Shapes: N images, H × W pixels at the decoder's resolution, C × h × w in its space.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

import torch
from torch import Tensor, nn

from unclip.batch import Batch
from unclip.config import Between
from unclip.diffusion.guidance import Guidance, guided
from unclip.diffusion.losses import LossConfig
from unclip.diffusion.prediction import Prediction
from unclip.diffusion.process import Diffusion
from unclip.diffusion.samplers import noise_from
from unclip.diffusion.sampling import Sampling
from unclip.draws import uniform
from unclip.networks.unet import UNet
from unclip.networks.unet_config import CONDITIONAL
from unclip.stages.base import Stage
from unclip.stages.conditioning import dropped, text_condition
from unclip.stages.decoder import STUDENT, TEACHER, DecoderStage
from unclip.stages.decoder.student import STUDENT_NOTE, GuidanceStudent
from unclip.stages.recipe import Data, Optimiser, Recipe, Training
from unclip.stages.spec import BuildContext, StageSpec
from unclip.storage.belonging import check_belonging
from unclip.storage.folder import ModelFolder

S = TypeVar("S")
LearnedScale = Annotated[float, Between(1, 1000)]
WIDTH = 16  # of the embedding of each number that a student is told


@dataclass(frozen=True)
class Lesson:
    """A batch as teacher and student see it.

    Attributes:
        x0, noise: (N, C, h, w).
        t: (N,) timesteps, uniform.
        beside: the mask channels (N, C + 1, h, w), where the teacher has some that are inputs of
            its U-Net: a student has no others.
        condition: what the U-Net is conditioned on in both branches, 2N rows.
        scale: (N,) of guidance.
    """

    x0: Tensor
    noise: Tensor
    t: Tensor
    beside: Tensor | None
    condition: dict[str, Tensor]
    scale: Tensor

    def seen(self, x_t: Tensor) -> Tensor:
        """(N, C, h, w) with the mask channels behind it, if there are any."""
        return x_t if self.beside is None else torch.cat([x_t, self.beside], dim=1)

    def __getitem__(self, rows: Tensor) -> "Lesson":
        """Some of the rows, by their numbers (M,)."""
        n = len(self.x0)
        condition = {
            name: torch.cat([value[:n][rows], value[n:][rows]])
            for name, value in self.condition.items()
        }
        beside = None if self.beside is None else self.beside[rows]
        return Lesson(
            self.x0[rows], self.noise[rows], self.t[rows], beside, condition, self.scale[rows]
        )

    @property
    def conditional(self) -> dict[str, Tensor]:
        """Of the branch with z_i and the caption alone: N rows."""
        return {name: value[: len(self.x0)] for name, value in self.condition.items()}


def started_from(teacher: DecoderStage, told: int) -> UNet:
    """A student that begins as the teacher's U-Net, and can be told so many numbers."""
    network = UNet(replace(teacher.network.decoder.config, time_cond_proj_dim=told * WIDTH))
    new, _ = network.load_state_dict(teacher.network.decoder.state_dict(), strict=False)
    assert new == ["time_embedding.cond_proj.weight"], new
    return network


def check_scales(scales: tuple[float, float]) -> None:
    """Refuse a range of guidance scales that is none."""
    low, high = scales
    if not low < high:
        raise ValueError(
            f"guidance_scales are {low:g} and {high:g}; give two of 1 or more, the lower first"
        )


def student_spec(
    name: str,
    settings: S,
    build: Callable[[S, DecoderStage], Stage],
    warm_start: Callable[[S, DecoderStage, ModelFolder], Stage] | None = None,
) -> StageSpec[S]:
    """How a student is trained, whatever it learns.

    Args:
        settings: the defaults.
        build: a fresh one from its settings and the decoder that teaches it.
        warm_start: one that goes on from the student of a folder.
    """

    def go_on(chosen: S, context: BuildContext, origin: ModelFolder) -> Stage:
        assert warm_start is not None
        return warm_start(chosen, _teacher_of(context), origin)

    return StageSpec(
        name,
        Recipe(
            settings,
            Data(),
            Training(batch_size=64, steps=20_000),
            Optimiser(learning_rate=1.2e-4, warmup=1000),  # the decoder's
        ),
        {STUDENT: (CONDITIONAL,)},
        lambda chosen, context: build(chosen, _teacher_of(context)),
        go_on if warm_start else None,
        teacher=TEACHER,
        notes=(STUDENT_NOTE,),
        embeddings="beside images",
    )


def _teacher_of(context: BuildContext) -> DecoderStage:
    """The decoder of the folder that a student is trained for, in fp32, where it is trained.

    Raises:
        ValueError: there is none, or one for images of another size.
    """
    folder = context.folder
    if not folder.has("decoder"):
        raise ValueError(f"{folder.path} has no decoder to distil; train one first")
    with folder.steady():
        check_belonging(folder.index(), folder.path)
        teacher = DecoderStage.load(folder, context.clip(), torch.float32)
    teacher.network.to(context.device)
    context.check_size(teacher.size, folder)
    return teacher


class StudentStage:
    """A student, and the decoder that teaches it, which stays as it is.

    Args:
        student: with the network that is trained.
    """

    def __init__(self, student: GuidanceStudent, teacher: DecoderStage, loss: LossConfig) -> None:
        self.network: nn.Module = student.network
        teacher.network.requires_grad_(False).eval()
        self.clip, self.teacher = teacher.clip, teacher.with_student(student)
        self.process = Diffusion(teacher.process.config, loss)

    def lesson(self, batch: Batch, drop_text: float, generator: torch.Generator) -> Lesson:
        """A batch with captions dropped, and with noise, timesteps, guidance scales (the logarithms
        even) and masks drawn."""
        teacher = self.teacher
        x0 = teacher.space.encode(batch["images"]).contiguous(memory_format=torch.channels_last)
        captions = dropped(batch["captions"], drop_text, generator)
        text = text_condition(teacher.clip, batch, captions)
        _, t, noise = self.process.draw(x0, generator)
        assert isinstance(teacher.student, GuidanceStudent)
        low, high = teacher.student.scales
        scale = low * (high / low) ** uniform(len(x0), generator=generator)
        beside = None
        if teacher.settings.inpainting and teacher.network.masks is None:
            beside = teacher.masked(x0, generator)
        with torch.no_grad():
            condition = teacher.both_conditions(teacher.embeddings(batch), text)
        return Lesson(x0, noise, t, beside, condition, scale)

    @torch.no_grad()
    def branches(self, lesson: Lesson, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's raw outputs (N, 2C or C, h, w) with and without the condition."""
        seen = lesson.seen(x_t)
        both = self.teacher.network.decoder(
            torch.cat([seen, seen]), torch.cat([t, t]), **lesson.condition
        )
        cond, uncond = both.chunk(2)
        return cond, uncond

    def guided(
        self, lesson: Lesson, x_t: Tensor, t: Tensor, branches: tuple[Tensor, Tensor]
    ) -> Prediction:
        """What guidance makes of both, clipped where sampling clips it."""
        cond, uncond = branches
        scale = lesson.scale[:, None, None, None]
        output = guided(cond, uncond, scale, channels=self.teacher.space.channels)
        return self.process.predict(output, x_t, t)

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """Originals, what both branches make of them, and the student from the same noise, each
        number of steps that it has learned in a row of its own."""
        teacher, images = self.teacher, batch["images"]
        text = text_condition(teacher.clip, batch, batch["captions"])
        z_i = teacher.embeddings(batch)
        assert isinstance(teacher.student, GuidanceStudent)
        low, high = teacher.student.scales
        scale, seed = (low * high) ** 0.5, generator.initial_seed()
        rows = [images]
        own = teacher.student.samplings(Guidance(scale, distilled=True))
        for sampling in (Sampling(25, "ddim", Guidance(scale)), *own):
            noise = noise_from(torch.Generator(images.device).manual_seed(seed))
            rows.append(teacher.sample(z_i, text, sampling, noise))
        return torch.stack(rows)

    def save(self, folder: ModelFolder) -> None:
        """decoder_distilled.

        Raises:
            ValueError: the folder's decoder is another than the one that was learned from.
        """
        assert self.teacher.student is not None
        if not self.teacher.is_in(folder):
            raise ValueError(
                f"the decoder of {folder.path} has changed while its student was trained; train "
                "the student anew with --overwrite"
            )
        self.teacher.student.save(folder)
