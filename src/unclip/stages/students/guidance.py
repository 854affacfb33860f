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

from dataclasses import dataclass, field, replace
from typing import Annotated, Self

import torch
from torch import Tensor

from unclip.batch import Batch
from unclip.config import Between, Checked, Probability
from unclip.diffusion.guidance import Guidance, guided
from unclip.diffusion.losses import LossConfig
from unclip.diffusion.process import Diffusion
from unclip.diffusion.samplers import noise_from
from unclip.diffusion.sampling import Sampling
from unclip.draws import uniform
from unclip.networks.unet import UNet
from unclip.networks.unet_config import CONDITIONAL
from unclip.stages.conditioning import dropped, text_condition
from unclip.stages.decoder import STUDENT, TEACHER, DecoderStage, GuidanceStudent
from unclip.stages.decoder.student import STUDENT_NOTE
from unclip.stages.masks import mask_channels, random_masks
from unclip.stages.recipe import Data, Optimiser, Recipe, Training
from unclip.stages.spec import BuildContext, StageSpec
from unclip.storage.belonging import check_belonging
from unclip.storage.folder import ModelFolder

LearnedScale = Annotated[float, Between(1, 1000)]
_WIDTH = 16  # of the guidance scale's embedding


@dataclass(frozen=True)
class DistillationSettings(Checked):
    """What is chosen about a student before it is trained."""

    # lowest and highest guidance scale that is learned
    guidance_scales: tuple[LearnedScale, LearnedScale] = (1.0, 10.0)
    drop_text: Probability = 0.5  # probability that the caption is dropped, as for the decoder
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.guidance_scales
        if not low < high:
            raise ValueError(
                f"guidance_scales are {low:g} and {high:g}; give two of 1 or more, the lower first"
            )


class DistillationStage:
    """The student, and the decoder that teaches it."""

    def __init__(
        self, network: UNet, teacher: DecoderStage, settings: DistillationSettings
    ) -> None:
        self.network = network
        teacher.network.requires_grad_(False).eval()
        scales = settings.guidance_scales
        self.clip = teacher.clip
        self.teacher, self.settings = (
            teacher.with_student(GuidanceStudent(network, scales)),
            settings,
        )
        self.process = Diffusion(teacher.process.config, settings.loss)

    @classmethod
    def build(cls, settings: DistillationSettings, teacher: DecoderStage) -> Self:
        """A student that starts as `teacher`'s U-Net."""
        network = UNet(replace(teacher.network.decoder.config, time_cond_proj_dim=_WIDTH))
        new, _ = network.load_state_dict(teacher.network.decoder.state_dict(), strict=False)
        assert new == ["time_embedding.cond_proj.weight"], new
        return cls(network, teacher, settings)

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """How far the student's predictions are from the guided ones, with captions dropped."""
        teacher, process = self.teacher, self.process
        space = teacher.space
        images = space.encode(batch["images"]).contiguous(memory_format=torch.channels_last)
        count = len(images)
        captions = dropped(batch["captions"], self.settings.drop_text, generator)
        text = text_condition(teacher.clip, batch, captions)
        x_t, t, noise = process.draw(images, generator)
        low, high = self.settings.guidance_scales
        scale = low * (high / low) ** uniform(count, generator=generator)
        seen = x_t
        if teacher.settings.inpainting:
            unknown = random_masks(count, teacher.side, generator)
            seen = torch.cat([x_t, mask_channels(images, unknown)], dim=1)
        with torch.no_grad():
            both = teacher.both_conditions(teacher.embeddings(batch), text)
            answers = teacher.network.decoder(torch.cat([seen, seen]), torch.cat([t, t]), **both)
            cond, uncond = answers.chunk(2)
            target = guided(cond, uncond, scale[:, None, None, None], channels=space.channels)
            lesson = process.predict(target, x_t, t)
        condition = {name: value[:count] for name, value in both.items()}
        output = self.network(seen, t, **condition, guidance_scale=scale)
        predicted, fraction = process.split(output.float(), space.channels)
        mse, errors = process.errors(predicted, lesson.x0, lesson.eps, t)
        losses = {"loss": errors.mean(), "mse": mse.mean().detach()}
        return process.with_bound(
            losses, cond[:, : space.channels].float(), fraction, images, noise, t
        )

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """Originals, what both branches make of them, and the student from the same noise."""
        teacher, images = self.teacher, batch["images"]
        text = text_condition(teacher.clip, batch, batch["captions"])
        z_i = teacher.embeddings(batch)
        low, high = self.settings.guidance_scales
        rows, seed = [images], generator.initial_seed()
        for distilled in (False, True):
            guidance = Guidance((low * high) ** 0.5, distilled=distilled)
            noise = noise_from(torch.Generator(images.device).manual_seed(seed))
            rows.append(teacher.sample(z_i, text, Sampling(25, "ddim", guidance), noise))
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


def _build(settings: DistillationSettings, context: BuildContext) -> DistillationStage:
    folder = context.folder
    if not folder.has("decoder"):
        raise ValueError(f"{folder.path} has no decoder to distil; train one first")
    with folder.steady():
        check_belonging(folder.index(), folder.path)
        teacher = DecoderStage.load(folder, context.clip(), torch.float32)
    teacher.network.to(context.device)
    context.check_size(teacher.size, folder)
    return DistillationStage.build(settings, teacher)


SPEC = StageSpec(
    "distilled-decoder",
    Recipe(
        DistillationSettings(),
        Data(),
        Training(batch_size=64, steps=20_000),
        Optimiser(learning_rate=1.2e-4, warmup=1000),  # the decoder's
    ),
    {STUDENT: (CONDITIONAL,)},
    _build,
    teacher=TEACHER,
    notes=(STUDENT_NOTE,),
    embeddings="beside images",
)
