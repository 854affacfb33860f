"""Parts of any image repainted (GLIDE's edits): what is computed for it, and how it is put back.

The rule for sizes: a square around what is to be repainted is cut out, as wide as twice its longer
side, or as the model's images (the image's shorter side at most) where that is more, but no wider
than the image is long. It is moved into the image as far as it can be; what still lies outside is
unknown too. The square, scaled to each stage's resolution, is what that stage completes. The result
is scaled back, and only its pixels under the mask are taken: all others are the input's, bit for
bit.

Of several candidates the decoder paints at its own resolution, CLIP keeps one, which alone is
enlarged.

So that there is no seam, every stage is given the known pixels at its own resolution: what it
paints continues them. Pixels of a stage that the mask covers in part are painted, and then mixed
with what is known of them by area: the next stage sees the mean of both, and where a result is
enlarged or reduced to the square, the border is as soft as one of the model's pixels.

Shapes: N images, H × W pixels of the image, s of a side of the square, n of a stage's images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.checks import listed, shown, whole_number
from unclip.data.transforms import to_rgb, to_tensor
from unclip.device.precision import full_precision
from unclip.diffusion.inpainting import Known
from unclip.networks.upsampler import upsample_bicubic
from unclip.pipeline.hooks import Callback
from unclip.pipeline.inputs import check_count, check_prompt
from unclip.pipeline.pictures import Picture, check_image
from unclip.pipeline.requests import Output, OutputType, Part, Request
from unclip.pipeline.settings import INPAINTING, Settings, check_settings, resolve
from unclip.stages.conditioning import TextCondition

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

RESAMPLES = 5
"""RePaint's r where the decoder has no mask channels; RePaint's own is 10."""
MOST_SIDE = 4096  # pixels of the square: 200 MB as floats, of which a handful are kept
_NARROWEST = 8  # times the image's shorter side that the square may measure
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels from the image's upper left corner; x1 and y1 are just outside."""


@torch.no_grad()
def inpaint(
    pipe: "Pipeline",
    image: Picture,
    prompt: str,
    mask: Picture | None = None,
    num_images_per_prompt: int = 1,
    *,
    boxes: Sequence[Box] = (),
    seed: int = 0,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    output_type: OutputType = "pil",
    callback_on_step_end: Callback | None = None,
    batch_size: int | None = None,
    settings: Settings | None = None,
    **overrides: Any,
) -> Output:
    """Repaint a part of an image for a caption, and keep the rest bit for bit.

    z_i is the prior's for the caption. A decoder with mask channels sees what is known (GLIDE,
    section 2.4); any other one is led to it by RePaint's resampling. The prior sees nothing of it,
    so that some z_i contradict what is known: of several candidates the one is kept that CLIP finds
    closest to the caption, as DALL·E's are chosen (arXiv 2102.12092, section 2.6). See
    `pipeline/inpainting.py` for sizes, and `diffusion/inpainting.py` for the algorithm.

    Args:
        image: of any mode, size and aspect (`pipeline/pictures.py`); the results are of its size.
        prompt: what it should show then; empty, what the model thinks fits.
        mask: of the image's size; what is white (128 of 255 or brighter) is repainted.
        boxes: (x0, y0, x1, y1) in pixels, repainted too; x1 and y1 are just outside.
        settings, overrides: see `Settings`, `resamples` and `inpainting_candidates` among them;
            the other arguments are those of a call.

    Raises:
        ValueError: image, mask or boxes as in `plan_hole`; a prompt, number or setting that
            makes no sense; a model without a prior.
    """
    request = Request.of(
        settings, overrides, seed=seed, generator=generator, output_type=output_type,
        callback_on_step_end=callback_on_step_end, batch_size=batch_size,
    )  # fmt: skip
    caption = check_prompt(prompt, empty=True)
    count = check_count(num_images_per_prompt, 1)
    image = check_image(image)
    mask = None if mask is None else check_image(mask, "a mask")
    if request.latents:  # one x_T for each image: there is nothing to choose from
        request = replace(request, settings=_one_candidate(request.settings))
    each = candidates_for(pipe, request.settings, caption)
    steps = pipe.inpainting_steps(request.settings, caption)
    hole = plan_hole(image, mask, boxes, request.settings.size or pipe.sizes[-1])
    pipe.captions(caption, empty=True)

    def draw(part: Part) -> Tensor:
        wide = replace(part, of=[number for number in part.of for _ in range(each)])
        text = pipe.clip.text([caption] * len(wide.of))
        z_i = pipe.embed(text, wide.noise_of("prior"), wide.settings, wide.hook("prior"))
        images = pipe.decoded(z_i, text, wide, known=hole)
        if each > 1:
            images = images[closest(pipe, hole.blended(images), text, each)]
        return hole.filled(pipe.upsampled(images, part, known=hole))

    return request.made(pipe, [caption], count, draw, steps, each=each)


def inpainting_steps(pipe: "Pipeline", settings: Settings, caption: str | None = None) -> int:
    """Sampling steps of an image of `inpaint`, those of all its candidates, for progress bars;
    `ValueError` as there.

    Args:
        caption: any but the empty one, if left out.
    """
    each = candidates_for(pipe, check_settings(settings), caption)
    return pipe.evaluations(settings, painting=True, each=each)


def candidates_for(pipe: "Pipeline", settings: Settings, caption: str | None) -> int:
    """How many images are painted for each one that is asked for.

    One for the empty caption, to which nothing is close, and by a model whose CLIP sees no images.

    Raises:
        ValueError: several are asked for by name, and this CLIP sees no images.
    """
    if pipe.clip.processor is None or pipe.clip.image_encoder is None:
        if (settings.inpainting_candidates or 1) > 1:
            raise ValueError(
                "this model has no image_encoder to choose among candidates: ask for 1"
            )
        return 1
    if caption is not None and not caption.strip():
        return 1
    found: int = resolve(INPAINTING, settings, {}, pipe.defaults).get("candidates", 1)
    return found


def closest(pipe: "Pipeline", images: Tensor, text: TextCondition, each: int) -> Tensor:
    """Of every `each` images (N · each, 3, h, w) in a row, the number (N,) of that whose embedding
    has the highest cosine with z_t."""
    likeness = F.cosine_similarity(pipe.clip.image(images.float()), text.z_t.float(), dim=-1)
    best = likeness.to(images.device).view(-1, each).argmax(dim=1)
    return torch.arange(len(best), device=images.device) * each + best


def _one_candidate(settings: Settings) -> Settings:
    """The settings, or a ValueError where they ask for several candidates by name."""
    if (settings.inpainting_candidates or 1) > 1:
        raise ValueError("x_T is given for each image: inpainting_candidates must be 1 or left out")
    return replace(settings, inpainting_candidates=1)


@dataclass(frozen=True)
class Hole:
    """What is repainted of an image, and the square that is computed for it.

    Attributes:
        image: (3, H, W) in [-1, 1].
        mask: (H, W) boolean, True where it is repainted.
        left, top: where the square begins; below 0 where it reaches outside.
        side: s.
    """

    image: Tensor
    mask: Tensor
    left: int
    top: int
    side: int

    def known(self, size: int, device: torch.device) -> Known:
        """What is known of the square at a stage's resolution, (1, 3, n, n)."""
        value, _ = self._fitted(size)
        unknown = F.adaptive_max_pool2d(self._unknown()[None], size) > 0
        return Known(value.to(device), unknown.to(device))

    def blended(self, images: Tensor) -> Tensor:
        """A stage's images (N, 3, n, n), with what is known of pixels that are so in part."""
        value, share = self._fitted(images.shape[-1])
        return torch.lerp(images, value.to(images), share.to(images))

    def filled(self, images: Tensor) -> Tensor:
        """The image (N, 3, H, W) with the last stage's images (N, 3, n, n) under the mask."""
        images = self.blended(images.float())
        if images.shape[-1] != self.side:
            with full_precision(images.device):
                images = upsample_bicubic(images, (self.side, self.side))
        inside, cut = self._overlap()
        whole = self.image.repeat(len(images), 1, 1, 1)
        painted = images.cpu().clamp(-1, 1)[..., cut[0], cut[1]]
        mask = self.mask[inside]
        whole[..., inside[0], inside[1]] = torch.where(
            mask, painted, whole[..., inside[0], inside[1]]
        )
        return whole

    def _fitted(self, size: int) -> tuple[Tensor, Tensor]:
        """The mean of what is known around each pixel, and how much that is: 0 to 1."""
        share = 1 - self._unknown()
        inside, cut = self._overlap()
        square = torch.zeros(1, 3, self.side, self.side)
        square[..., cut[0], cut[1]] = self.image[:, inside[0], inside[1]]
        value, share = (
            F.interpolate(x, (size, size), mode="bilinear", antialias=True)
            for x in (square * share, share[None])
        )
        return value / share.clamp(min=1e-6), share

    def _unknown(self) -> Tensor:
        """(1, s, s): 1 under the mask and outside the image, 0 elsewhere."""
        inside, cut = self._overlap()
        unknown = torch.ones(1, self.side, self.side)
        unknown[:, cut[0], cut[1]] = self.mask[inside].float()
        return unknown

    def _overlap(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Rows and columns of the image that are in the square, and where they are in it."""
        inside, cut = [], []
        for start, length in zip((self.top, self.left), self.mask.shape, strict=True):
            first, last = max(start, 0), min(start + self.side, length)
            inside.append(slice(first, last))
            cut.append(slice(first - start, last - start))
        return (inside[0], inside[1]), (cut[0], cut[1])


def plan_hole(
    image: Image.Image, mask: Image.Image | None, boxes: Sequence[Box], size: int
) -> Hole:
    """The square for what `mask` and `boxes` say together.

    Args:
        image: of any mode, size and aspect.
        mask: of the same size; what is at least half as bright as white (128 of 255) is repainted.
            It may be white everywhere: then nothing is kept.
        size: pixels of a side of the model's images.

    Raises:
        ValueError: neither mask nor box; a mask of another size or black everywhere; a box that is
            none or reaches outside; a square that is too large, or mostly outside the image.
    """
    painted = _painted(image, mask, boxes)
    rows, columns = (painted.any(dim=axis).nonzero() for axis in (1, 0))
    spans = [(int(where[0]), int(where[-1]) + 1) for where in (rows, columns)]
    longer, shorter = max(image.size), min(image.size)
    side = min(max(2 * max(end - start for start, end in spans), min(size, shorter)), longer)
    if side > _NARROWEST * shorter or side > MOST_SIDE:
        raise ValueError(
            f"what is to be repainted of {image.width} × {image.height} pixels needs a square of "
            f"{side}; {MOST_SIDE} at most are computed, and {_NARROWEST} times the image's shorter "
            "side: repaint smaller parts"
        )
    starts = []
    for (start, end), length in zip(spans, painted.shape, strict=True):
        middle = (start + end - side) // 2
        starts.append(
            min(max(middle, 0), length - side) if side <= length else (length - side) // 2
        )
    return Hole(to_tensor(image), painted, starts[1], starts[0], side)


def _painted(image: Image.Image, mask: Image.Image | None, boxes: Sequence[Box]) -> Tensor:
    """(H, W) boolean, True where a mask or a box says so."""
    width, height = image.size
    corners = [_corners(box, width, height) for box in listed(boxes)]
    if mask is None and not corners:
        raise ValueError("nothing says what to repaint: give a mask, or boxes=[(x0, y0, x1, y1)]")
    painted = torch.zeros(height, width, dtype=torch.bool)
    if mask is not None:
        if mask.size != image.size:
            raise ValueError(
                f"the mask has {mask.width} × {mask.height} pixels and the image "
                f"{width} × {height}; make them equal"
            )
        painted |= torch.from_numpy(np.array(to_rgb(mask).convert("L"))) >= 128
        if not painted.any():
            raise ValueError("the mask is black everywhere: what is white in it is repainted")
    for x0, y0, x1, y1 in corners:
        painted[y0:y1, x0:x1] = True
    return painted


def _corners(box: Any, width: int, height: int) -> Box:
    """x0, y0, x1, y1 of a box inside an image of width × height pixels, or a ValueError."""
    numbers = listed(box)
    try:
        x0, y0, x1, y1 = (whole_number(number, "a corner") for number in numbers)
    except ValueError:
        raise ValueError(f"a box is four whole numbers x0,y0,x1,y1, not {shown(box)}") from None
    words = ",".join(map(shown, (x0, y0, x1, y1)))
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"the box {words} holds no pixel: x0 < x1 and y0 < y1 must hold")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise ValueError(
            f"the box {words} reaches outside the image, which has {width} × {height} pixels"
        )
    return x0, y0, x1, y1
