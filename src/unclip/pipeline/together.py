"""Images of different requests computed at once: what of them must agree, and how they are made.

What agrees is the decoder's and the upsamplers' sampling, but for the guidance scale: captions,
negative prompts, seeds, scales, images that are varied and masks may all differ. Each image has a
random stream of its own, so that it is its request's alone, but for the rounding of sums; computed
alone it is the same bit for bit as `Pipeline` makes it.

Shapes: N images, D embedding width, h pixels at the decoder's resolution, H × W of the result.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image
from torch import Tensor

from unclip.device.memory import give_back, kept_memory
from unclip.diffusion.inpainting import Known
from unclip.diffusion.prediction import Prediction
from unclip.diffusion.samplers import Callback
from unclip.diffusion.sampling import Sampling
from unclip.pipeline.inpainting import Hole, candidates_for, closest
from unclip.pipeline.latent_space import Points
from unclip.pipeline.noise import of_images
from unclip.pipeline.requests import convert
from unclip.pipeline.sampling import scaled, stage_name, steps_of, upsamplers_to
from unclip.pipeline.settings import Settings
from unclip.pipeline.upscaling import enlarged
from unclip.stages.conditioning import TextCondition

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

Watch = Callable[[str, int, Tensor], None]
"""Called after each step with the stage, the step's number and x̂_0 (N, ...); what it raises ends
the work."""


@dataclass(frozen=True)
class Wanted:
    """One image that is to be made.

    Args:
        settings: as of a call; one negative prompt at most.
        seed: of its random stream.
        caption: what it shows, and what the prior draws z_i for, if neither of the next is given.
        image: is varied: z_i is its own.
        z_i: (D,) itself.
        start: (3, h, h) x_T; fresh noise if left out.
        hole: what is repainted of an image.
    """

    settings: Settings = field(default_factory=Settings)
    seed: int = 0
    caption: str = ""
    image: Image.Image | None = None
    z_i: Tensor | None = None
    start: Tensor | None = None
    hole: Hole | None = None


def decoded_from(points: Points, settings: Settings, seeds: Sequence[int]) -> list[Wanted]:
    """An image for each of the points, with a seed of its own."""
    starts = [None] * len(seeds) if points.x_T is None else points.x_T
    rows = zip(points.z_i, starts, settings.guided(points.scales, len(seeds)), seeds, strict=True)
    return [Wanted(own, seed, z_i=z_i, start=start) for z_i, start, own, seed in rows]


class Planned:
    """An image with how each stage is sampled for it.

    Raises:
        ValueError: the settings ask for what the model does not have.
    """

    def __init__(self, pipe: "Pipeline", wanted: Wanted) -> None:
        self.wanted, settings = wanted, wanted.settings
        self.drawn = wanted.image is None and wanted.z_i is None and pipe.decoder.needs_prior
        self.prior = pipe.sampling("prior", settings) if self.drawn else None
        painting = wanted.hole is not None
        self.decoder = pipe.sampling("decoder", settings, painting)
        self.each = candidates_for(pipe, settings, wanted.caption) if painting else 1
        self.upsamplers = tuple(
            pipe.sampling(stage_name(one), settings) for one in upsamplers_to(pipe, settings.size)
        )
        start: Literal["prior", "decoder"] = "prior" if self.drawn else "decoder"
        self.steps = pipe.evaluations(settings, start, painting=painting)
        self.decoding = steps_of(pipe, "decoder", pipe.decoder.process, settings, painting)
        sizes = [size for size in pipe.sizes if size <= (settings.size or pipe.sizes[-1])]
        self._holes = wanted.hole and tuple(
            bool(wanted.hole.known(size, torch.device("cpu")).unknown.all()) for size in sizes
        )

    @cached_property
    def key(self) -> Hashable:
        """What images that are computed at once have in common."""
        started = self.wanted.start is not None
        return _unscaled(self.decoder), self.upsamplers, self._holes, started, self.each

    @cached_property
    def prior_key(self) -> Hashable:
        """What captions have in common whose z_i are drawn at once; None: no prior draws it."""
        settings = self.wanted.settings
        return self.prior and (
            _unscaled(self.prior), settings.prior, settings.prior_num_candidates
        )  # fmt: skip


def _unscaled(sampling: Sampling) -> Hashable:
    """The sampling, but for a scale that each image may have for itself."""
    guidance = sampling.guidance
    own = not (guidance.distilled or guidance.scale == 1)  # a student takes one scale for all
    return replace(sampling, guidance=replace(guidance, scale=2.0)) if own else sampling


@torch.no_grad()
def draw_together(pipe: "Pipeline", rows: Sequence[Planned], watch: Watch) -> list[Image.Image]:
    """The images of rows whose `key` is the same.

    Raises:
        ValueError: weights or embeddings so large that the images hold NaN.
    """
    with kept_memory(pipe.device):
        return finished(rows, _drawn(pipe, rows, watch))


def _drawn(pipe: "Pipeline", rows: Sequence[Planned], watch: Watch) -> Tensor:
    """(N, 3, H, W) of the last stage."""
    streams = [torch.Generator().manual_seed(row.wanted.seed % 2**64) for row in rows]
    each, noise = rows[0].each, of_images(streams)

    def first(stage: str, step: int, x0: Tensor) -> None:
        watch(stage, step, x0[::each])

    wide = [row for row in rows for _ in range(each)]
    z_i, text = _embeddings(pipe, wide, [one for one in streams for _ in range(each)], first)
    sampling, null = scaled([row.decoder for row in wide]), _null(pipe, wide)
    starts = [row.wanted.start for row in wide if row.wanted.start is not None]
    start = torch.stack(starts).to(z_i) if starts else None
    known, decoder = _known(pipe, wide, pipe.decoder.size), pipe.decoder
    images = decoder.sample(
        z_i, text, sampling, noise, null, _hook("decoder", first), start, known
    )  # fmt: skip
    images = images.clamp(-1, 1)
    if each > 1:
        images = images[closest(pipe, _blended(wide, images), text, each)]
    if pipe.device.type == "cpu":
        give_back()  # as `Pipeline.upsampled`
    for one, how in zip(upsamplers_to(pipe, rows[0].wanted.settings.size), rows[0].upsamplers,
                        strict=True):  # fmt: skip
        images = _blended(rows, images)
        known = _known(pipe, rows, one.size)
        images = one.sample(images, how, noise, _hook("super_res", watch), known=known)
    return images


def finished(rows: Sequence[Planned], images: Tensor) -> list[Image.Image]:
    """Images (N, 3, H, W) as Pillow's, put into what is repainted of others."""
    made: list[Image.Image] = []
    for row, image in zip(rows, images, strict=True):
        hole = row.wanted.hole
        whole = image[None] if hole is None else hole.filled(image[None])
        made += convert(whole, "pil")
    return made


def glimpse(pipe: "Pipeline", row: Planned, x0: Tensor) -> Image.Image:
    """What the decoder's x̂_0 (1, ...) of an image shows, as large as the image will be."""
    size = row.wanted.settings.size or pipe.sizes[-1]
    with torch.no_grad():
        image = pipe.decoder.space.decode(x0.float()).clamp(-1, 1)
        if image.shape[-1] != size:
            image = enlarged(image, (size, size))
        return finished([row], image.nan_to_num())[0]


def _embeddings(
    pipe: "Pipeline", rows: Sequence[Planned], streams: Sequence[torch.Generator], watch: Watch
) -> tuple[Tensor, TextCondition]:
    """z_i (N, D) and captions: drawn by the prior, given, or of images."""
    text = pipe.clip.text([row.wanted.caption for row in rows])
    found: dict[int, Tensor] = {}
    order = sorted(range(len(rows)), key=lambda k: repr(rows[k].prior_key))
    for _, several in groupby(order, key=lambda k: repr(rows[k].prior_key)):
        numbers = list(several)
        drawn = [rows[k] for k in numbers]
        if drawn[0].prior is not None:
            where = torch.tensor(numbers, device=text.z_t.device)
            z_i = pipe.prior_for(drawn[0].wanted.settings).sample(
                text[where] if len(numbers) < len(rows) else text,
                scaled([row.prior for row in drawn if row.prior is not None]),
                of_images([streams[k] for k in numbers]),
                _null(pipe, drawn), _hook("prior", watch),
                drawn[0].wanted.settings.prior_num_candidates,
            )  # fmt: skip
            found |= {k: z_i[i : i + 1] for i, k in enumerate(numbers)}
            continue
        for k in numbers:
            wanted = rows[k].wanted
            if wanted.image is not None:
                found[k] = pipe.embed_images(wanted.image)
            else:
                found[k] = text.z_t[k : k + 1] if wanted.z_i is None else wanted.z_i[None]
    z_all = torch.cat([found[k].float().to(pipe.device) for k in range(len(rows))])
    return z_all, text


def _null(pipe: "Pipeline", rows: Sequence[Planned]) -> TextCondition:
    """What guidance leads away from: the empty caption, or one for each row."""
    negative = [row.wanted.settings.negative_prompt or "" for row in rows]
    if not any(negative):
        return pipe.null
    return pipe.clip.text([text for text in negative if isinstance(text, str)])


def _known(pipe: "Pipeline", rows: Sequence[Planned], size: int) -> Known | None:
    holes = [row.wanted.hole for row in rows if row.wanted.hole is not None]
    if not holes:
        return None
    each = [hole.known(size, pipe.device) for hole in holes]
    if len(each) == 1:
        return each[0]
    return Known(torch.cat([one.x0 for one in each]), torch.cat([one.unknown for one in each]))


def _blended(rows: Sequence[Planned], images: Tensor) -> Tensor:
    return torch.cat([
        image if row.wanted.hole is None else row.wanted.hole.blended(image)
        for row, image in zip(rows, torch.split(images, 1), strict=True)
    ])  # fmt: skip


def _hook(stage: str, watch: Watch) -> Callback:
    def hook(i: int, t: float, x: Tensor, prediction: Prediction) -> Tensor:
        watch(stage, i, prediction.x0)
        return x

    return hook
