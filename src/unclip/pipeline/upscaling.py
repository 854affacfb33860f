"""Any image made larger by a model's upsamplers alone.

The rule for sizes: the image is taken as the small image of the upsampler whose small images are
nearest to it in size (the longer side decides, by ratio), whatever its aspect. It is continued at
its right and bottom by its last pixels to what the network's levels divide, and the result is cut
back to exactly `factor` times the image. Nothing is resized before the network sees it. With a
`size`, the following upsamplers continue until the longer side reaches it, and a result that is
larger is reduced to it with an antialiased bicubic filter.

Shapes: h × w pixels of the image, H × W of the result.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.data.transforms import to_tensor
from unclip.device.precision import full_precision
from unclip.diffusion.prediction import Noise
from unclip.diffusion.samplers import Callback
from unclip.diffusion.sampling import Sampling
from unclip.networks.upsampler import upsample_bicubic
from unclip.pipeline import hooks
from unclip.pipeline.pictures import Picture, check_image
from unclip.pipeline.requests import Output, OutputType, Part, Request
from unclip.pipeline.sampling import stage_name, steps_of
from unclip.pipeline.settings import Settings, check_settings
from unclip.stages.upsampler import UpsamplerStage

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

MOST_PIXELS = 2**24  # of a result: 200 MB for each image that a sampler keeps, and hours on a CPU


@torch.no_grad()
def upscale(
    pipe: "Pipeline",
    image: Picture,
    *,
    seed: int = 0,
    generator: torch.Generator | None = None,
    output_type: OutputType = "pil",
    callback_on_step_end: hooks.Callback | None = None,
    settings: Settings | None = None,
    **overrides: Any,
) -> Output:
    """Enlarge an image with the upsamplers alone (section 2.1); see `pipeline/upscaling.py`.

    Args:
        image: of any mode, size and aspect (`pipeline/pictures.py`).
        settings, overrides: `size` is the longer side of the result; if left out, the nearest
            upsampler is applied once. The other arguments are those of a call.

    Raises:
        ValueError: no image; a size that cannot be reached; a setting that makes no sense.
    """
    request = Request.of(
        settings, overrides, seed=seed, generator=generator, output_type=output_type,
        callback_on_step_end=callback_on_step_end,
    )  # fmt: skip
    image, size = check_image(image), request.settings.size
    passes = plan_passes(pipe.decoder.size, pipe.upsamplers, image, size)
    steps = pipe.upscaling_steps(image, request.settings)  # refuses what cannot be done

    def draw(part: Part) -> Tensor:
        def sampling(stage: UpsamplerStage) -> Sampling:
            return pipe.sampling(stage_name(stage), part.settings)

        def hook() -> Callback | None:
            return None if pipe.interrupt else part.hook("super_res")

        return enlarge(image, passes, size, sampling, part.noise, hook, pipe.device)

    return request.made(pipe, [""], 1, draw, steps, ())


def upscaling_steps(pipe: "Pipeline", image: Picture, settings: Settings) -> int:
    """Sampling steps of `upscale`, for progress bars; `ValueError` as there."""
    image = check_image(image)
    size = check_settings(settings).size
    stages = [p.stage for p in plan_passes(pipe.decoder.size, pipe.upsamplers, image, size)]
    return sum(steps_of(pipe, stage_name(stage), stage.process, settings) for stage in stages)


@dataclass(frozen=True)
class Pass:
    """One upsampler applied once: height and width in, `factor` times as much out."""

    stage: UpsamplerStage
    factor: int
    height: int
    width: int

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the small image that the network's levels divide when enlarged."""
        levels = self.stage.network.config.downsampling
        unit = levels // math.gcd(levels, self.factor)
        return math.ceil(self.height / unit) * unit, math.ceil(self.width / unit) * unit


def plan_passes(
    base: int, upsamplers: Sequence[UpsamplerStage], image: Image.Image, size: int | None = None
) -> list[Pass]:
    """The upsamplers that enlarge `image`, in order.

    Args:
        base: pixels of a side of the first upsampler's small images, the decoder's.
        size: pixels of the longer side of the result; one pass if left out.

    Raises:
        ValueError: the model has no upsampler, cannot reach the size, or would go beyond
            `MOST_PIXELS`; the size is not larger than the image.
    """
    if not upsamplers:
        raise ValueError("this model has no upsampler: it cannot enlarge images")
    width, height = image.size
    longer = max(width, height)
    if size is not None and size <= longer:
        raise ValueError(
            f"the image is {width} × {height} pixels already; a size of {size} does not enlarge it"
        )
    smalls = [base, *(stage.size for stage in upsamplers)]
    ratios = [abs(math.log(longer / small)) for small in smalls[:-1]]
    passes: list[Pass] = []
    for k in range(ratios.index(min(ratios)), len(upsamplers)):
        factor, rest = divmod(upsamplers[k].size, smalls[k])
        if rest:
            raise ValueError(
                f"the upsampler from {smalls[k]} to {upsamplers[k].size} pixels enlarges by no "
                "whole number; images of other sizes cannot be given to it"
            )
        passes.append(Pass(upsamplers[k], factor, height, width))
        padded = passes[-1].padded
        if padded[0] * padded[1] * factor**2 > MOST_PIXELS:
            raise ValueError(
                f"{width} × {height} pixels made {factor} times larger are more than "
                f"{MOST_PIXELS:,} pixels; give a smaller image"
            )
        height, width = height * factor, width * factor
        if size is None or max(height, width) >= size:
            return passes
    raise ValueError(
        f"this model enlarges an image of {image.width} × {image.height} pixels to "
        f"{width} × {height} at most, not to {size}"
    )


def enlarge(
    image: Image.Image,
    passes: Sequence[Pass],
    size: int | None,
    sampling: Callable[[UpsamplerStage], Sampling],
    noise: Noise,
    hook: Callable[[], Callback | None],
    device: torch.device,
) -> Tensor:
    """The result (1, 3, H, W) in [-1, 1] of `plan_passes`' passes.

    Args:
        sampling: how a stage is sampled.
        hook: makes the callback of each pass; None: the networks are not to be asked any more.
        device: where the networks compute.
    """
    x = to_tensor(image)[None].to(device)
    for step in passes:
        height, width = step.padded
        x = F.pad(x, (0, width - step.width, 0, height - step.height), mode="replicate")
        full, callback = (height * step.factor, width * step.factor), hook()
        if callback is None:
            x = enlarged(x, full)
        else:
            x = step.stage.sample(x, sampling(step.stage), noise, callback, full).clamp(-1, 1)
        x = x[:, :, : step.height * step.factor, : step.width * step.factor]
    height, width = x.shape[-2:]
    if size is not None and size < max(height, width):
        scale = size / max(height, width)
        x = enlarged(x, (max(1, round(height * scale)), max(1, round(width * scale))))
    return x


def enlarged(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (N, 3, h, w) at another size (H, W), without a network."""
    with full_precision(images.device):
        return upsample_bicubic(images.float(), size)
