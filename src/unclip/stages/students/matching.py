"""Distribution matching: a student's images of one step become distributed as its teacher's.

Consistency makes one step end where the teacher's many steps would have, in the mean of what it
cannot tell apart. This leads what it ends in to where the teacher finds images more likely, without
pairs and without a discriminator (Yin et al., arXiv 2311.18828, sections 3.2 and 3.3). Of images x
of the student, noised to x_τ, the guided teacher says x_0 as its own images have it, and a second
network, the fake one, as the student's have it. Down the divergence of the two distributions leads

    g = (x̂_0^fake(x_τ) - x̂_0^teacher(x_τ)) / mean |x - x̂_0^teacher(x_τ)|,

so that the loss is ½ |x - stopped(x - g)|², whose gradient by x is g. The fake network starts as
the teacher and learns by the diffusion loss on the student's images, one step for each of its own.

Shapes: N images, C × h × w in the decoder's space.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from unclip.diffusion.prediction import Prediction
from unclip.diffusion.process import Diffusion
from unclip.networks.unet import UNet
from unclip.stages.students.learning import Lesson


def matching_losses(
    made: Tensor,
    lesson: Lesson,
    t: Tensor,
    noise: Tensor,
    fake: UNet,
    guided: Callable[[Tensor], Prediction],
    process: Diffusion,
) -> tuple[Tensor, Tensor]:
    """The student's loss (N,) by distribution matching, and the fake network's (N,) by diffusion.

    Args:
        made: (N, C, h, w) the student's images, with gradients; of the lesson's rows.
        t, noise: (N,) and (N, C, h, w), what they are noised by.
        guided: what the teacher says of the noised images (N, C, h, w) at t.
    """
    images = made.detach()
    x_t = process.schedule.q_sample(images, t, noise)
    output = fake(lesson.seen(x_t), t, **lesson.conditional)
    predicted, _ = process.split(output.float(), images.shape[1])
    _, errors = process.errors(predicted, images, noise, t)
    with torch.no_grad():
        right, wrong = guided(x_t).x0, process.predict(output, x_t, t).x0
        size = (images - right).abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-4)
        led = images - (wrong - right) / size
    return 0.5 * (made - led).square().mean(dim=(1, 2, 3)), errors
