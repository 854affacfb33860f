"""Distribution matching: where it leads a student's images, and what is trained."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.stages.students.test_few_steps import SETTINGS
from tests.stages.students.test_guidance import small
from unclip.diffusion.prediction import Prediction
from unclip.stages.decoder import DecoderStage
from unclip.stages.students.few_steps import FewStepStage
from unclip.stages.students.matching import matching_losses


@pytest.fixture
def stage(teacher: DecoderStage) -> FewStepStage:
    torch.manual_seed(0)
    return FewStepStage.build(replace(SETTINGS, matching=1.0), teacher)


class Says(nn.Module):
    """A fake network that says one x_0 of everything."""

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.x0 = nn.Parameter(x0)

    def forward(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        return torch.cat([self.x0, torch.zeros_like(x)], dim=1)


def matched(stage: FewStepStage, right: float, wrong: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by the student's images, which are 0, and by the fake network's x_0; its error."""
    generator = torch.Generator().manual_seed(0)
    lesson = stage.lesson(small(2), 0.5, generator)
    _, t, noise = stage.process.draw(lesson.x0, generator)
    made = torch.zeros_like(lesson.x0).requires_grad_()
    fake = Says(torch.full_like(lesson.x0, wrong))
    teacher = torch.full_like(lesson.x0, right)
    losses, errors = matching_losses(
        made, lesson, t, noise, fake,  # type: ignore[arg-type]
        lambda x_t: Prediction(teacher, x_t, None), stage.process,
    )  # fmt: skip
    (losses.mean() + errors.mean()).backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert fake.x0.grad is not None
    return made.grad * made.numel(), fake.x0.grad, errors.detach()


def test_images_are_led_from_where_they_are_too_many_to_where_they_are_missing(
    stage: FewStepStage,
) -> None:
    process = replace(stage.process.config, prediction_type="sample")
    stage.process = type(stage.process)(process, SETTINGS.loss)
    led, fake, _ = matched(stage, right=0.5, wrong=-0.25)
    torch.testing.assert_close(led, torch.full_like(led, -1.5))  # (-0.25 - 0.5) / |0 - 0.5|
    assert (fake < 0).all()  # towards the student's images alone
    led, fake, errors = matched(stage, right=0.5, wrong=0.5)
    assert not led.any()
    assert (errors > 0).all()
    assert (fake > 0).all()


def test_student_and_fake_network_are_trained_and_the_teacher_is_not(stage: FewStepStage) -> None:
    losses = stage.loss(small(8), torch.Generator().manual_seed(0))
    assert {"matching", "fake"} <= losses.keys()
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    assert isinstance(stage.network, nn.ModuleDict)
    for part in stage.network.values():
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    assert all(p.grad is None for p in stage.teacher.network.parameters())
    few = stage.loss(small(2), torch.Generator().manual_seed(0))  # none of them in one step
    assert few["loss"].isfinite()
