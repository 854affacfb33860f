"""A decoder in another space, with another encoder and another student: the least of each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tiny import learns, noise, scenes
from unclip.diffusion.guidance import Guidance
from unclip.diffusion.inpainting import Known
from unclip.diffusion.sampling import Plan, Sampling
from unclip.networks.clip_config import CLIPTextConfig
from unclip.networks.unet import UNet
from unclip.stages.conditioning import TextCondition
from unclip.stages.decoder import DecoderSettings, DecoderStage
from unclip.stages.decoder.denoising import answers
from unclip.stages.decoder.protocols import Branches, Pixels, pooled
from unclip.storage.folder import ModelFolder

SETTINGS: dict[str, Any] = {
    "widths": (16, 32), "layers": 1, "head_width": 16, "groups": 8, "context_width": 32,
    "prediction_type": "sample", "drop_text": 0.0, "drop_image": 0.0,
}  # fmt: skip


class Halves:
    """Latents of half the side: means of 2 × 2 pixels, and the luminance besides."""

    channels, factor, discrete = 4, 2, False

    def encode(self, images: Tensor) -> Tensor:
        small = F.avg_pool2d(images, 2)
        return torch.cat([small, small.mean(dim=1, keepdim=True)], dim=1)

    def decode(self, x: Tensor) -> Tensor:
        return F.interpolate(x[:, :3], scale_factor=2.0)


class RandomEncoder:
    """Random projections of images and of the characters of captions."""

    def __init__(self, width: int = 12) -> None:
        generator = torch.Generator().manual_seed(0)
        self.of_pixels = torch.randn(3 * 64, width, generator=generator) / 8
        self.of_letters = torch.randn(128, width, generator=generator)
        self.text_sizes = CLIPTextConfig(128, width, 16, width, 1, 1, 16)

    @property
    def width(self) -> int:
        return self.text_sizes.projection_dim

    def image(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, 8).flatten(1) @ self.of_pixels

    def text(self, captions: Sequence[str]) -> TextCondition:
        ids = torch.tensor([[ord(c) % 128 for c in caption.ljust(16)[:16]] for caption in captions])
        hidden = self.of_letters[ids]
        return TextCondition(
            hidden.mean(dim=1), hidden, torch.ones_like(ids, dtype=torch.bool), ids
        )


class LastStep:
    """A student that answers the last step, whatever the guidance."""

    def __init__(self, network: UNet) -> None:
        self.network, self.asked = network, list[float]()

    def knows(self, scale: float) -> bool:
        return scale == 2

    def samples(self, sampling: Sampling) -> bool:
        return self.knows(sampling.guidance.one_scale)

    def check(self, sampling: Sampling) -> None:
        raise ValueError("it knows the scale 2 alone")

    def takes(self, plan: Plan) -> Callable[[float], bool]:
        return lambda t: t <= plan.timesteps[-1]

    def answers(
        self, timesteps: Sequence[float], scale: float, given: Mapping[str, Any]
    ) -> Branches:
        network = answers(self.network, timesteps, given, 2)

        def noted(x: Tensor, t: float, twice: bool) -> Tensor:
            self.asked.append(t)
            return network(x, t, twice)

        return noted

    def save(self, folder: ModelFolder) -> None:
        raise AssertionError


def stage(**more: Any) -> DecoderStage:
    torch.manual_seed(0)
    return DecoderStage.build(DecoderSettings(**SETTINGS | more), RandomEncoder(), 32, Halves())


def test_it_learns_and_makes_images_of_the_spaces_pixels() -> None:
    decoder, batch = stage(), scenes(4)
    assert (decoder.size, decoder.side) == (32, 16)
    config = decoder.network.decoder.config
    assert (config.in_channels, config.out_channels) == (4, 4)  # fixed variances
    before, after = learns(decoder, batch, 40)
    assert after < 0.8 * before
    text, z_i = decoder.clip.text(batch["captions"]), decoder.embeddings(batch)
    sampling = Sampling(4, "ddim", Guidance(2.0))
    images = decoder.sample(z_i, text, sampling, noise(1, 2, 3, 4))
    assert images.shape == (4, 3, 32, 32)
    assert torch.equal(images[..., ::2, ::2], images[..., 1::2, 1::2])
    start = decoder.invert(images, z_i, text, Sampling(4, "ddim"))
    assert start.shape == (4, 4, 16, 16)


@pytest.mark.parametrize("channels", [False, True])
def test_what_is_known_is_known_in_the_space(channels: bool) -> None:
    decoder, batch = stage(inpainting=channels), scenes(2)
    masks = decoder.network.masks
    assert (masks and masks.config.in_channels) == (5 if channels else None)
    loss = decoder.loss(batch, torch.Generator().manual_seed(0))["loss"]
    assert loss.isfinite()
    images = batch["images"]
    unknown = torch.zeros_like(images[:1, :1], dtype=torch.bool)
    unknown[..., 9:20, 9:20] = True
    text, z_i = decoder.clip.text(batch["captions"]), decoder.embeddings(batch)
    made = decoder.sample(z_i, text, Sampling(3, "ddim"), noise(1, 2), known=Known(images, unknown))
    kept = Halves().decode(Halves().encode(images))
    touched = F.interpolate(pooled(unknown, 2).float(), scale_factor=2.0).bool()
    assert touched[..., 8:20, 8:20].all()
    outside = ~touched.expand_as(made)
    torch.testing.assert_close(made[outside], kept[outside])
    assert (made - kept)[~outside].abs().max() > 1e-3
    assert pooled(unknown, 1) is unknown


def test_another_student_takes_the_steps_that_it_says() -> None:
    plain = stage()
    student = LastStep(UNet(plain.network.decoder.config))
    decoder, batch = plain.with_student(student), scenes(2)
    assert isinstance(decoder.space, Halves)
    text, z_i = decoder.clip.text(batch["captions"]), decoder.embeddings(batch)
    sampling = Sampling(4, "ddim", Guidance(2.0, distilled=True))
    decoder.sample(z_i, text, sampling, noise(1, 2))
    assert student.asked == [decoder.process.plan(sampling).timesteps[-1]]
    with pytest.raises(ValueError, match="it knows the scale 2 alone"):
        decoder.sample(z_i, text, Sampling(4, "ddim", Guidance(3.0, distilled=True)), noise(1, 2))


def test_sizes_that_a_space_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"data\.size 33 is not a multiple of 2"):
        DecoderStage.build(DecoderSettings(**SETTINGS), RandomEncoder(), 33, Halves())
    images = torch.rand(1, 3, 4, 4)
    assert Pixels().decode(Pixels().encode(images)) is images
