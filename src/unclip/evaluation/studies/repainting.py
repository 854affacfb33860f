"""Inpainting measured: one of a scene's two objects is hidden, and painted anew from the caption.

The judge says whether the object is there again, in its colour, and whether the other one and the
background still are. It sees no seam, so that is measured on pixels: how far the image jumps across
the border of what was repainted, beside how far the true scene jumps there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unclip.checks import seed_after
from unclip.data.world.scene import GRID, Object, Scene, WorldConfig
from unclip.data.world.world import World
from unclip.evaluation.intervals import Rate
from unclip.evaluation.judge.network import Detections, Judge, judge_images
from unclip.evaluation.metrics.composition import (
    Rated,
    background_right,
    check_judge,
    held_out,
    match,
    plain,
    real_scores,
)
from unclip.pipeline.inpainting import Box
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.pixels import to_levels

_MARGIN = 4 / GRID  # around the hidden object: it may come back a little larger, or elsewhere


@dataclass(frozen=True)
class Repainting(Rated):
    """What became of scenes of which one object was repainted.

    Attributes:
        object: those with an object of the hidden one's shape again.
        colour: of those, with its colour.
        kept: those with the other object as it was, shape and colour.
        background: those with the background as it was.
        exact: those with both objects, no other one, and the background.
        seam: jump between neighbouring pixels across the border, in grey levels (0 to 255): the
            median along the border, so that an object that reaches it does not count, then the
            mean over the scenes.
        true_seam: the same of the true scenes.
    """

    object: Rate
    colour: Rate
    kept: Rate
    background: Rate
    exact: Rate
    seam: float
    true_seam: float

    def to_dict(self) -> dict[str, Any]:
        seams = {"seam": self.seam, "true_seam": self.true_seam}
        return {name: rate.to_dict() for name, rate in self.rates().items()} | seams


def pairs(config: WorldConfig) -> WorldConfig:
    """The configuration with scenes of two plain shapes beside or above each other."""
    relations = tuple(name for name in config.relations if name not in ("inside", "on"))
    return replace(plain(config, 2), relations=relations)


def box_of(thing: Object, size: int) -> Box:
    """Pixels that the object covers in an image of `size` × `size`, and a little more."""
    half = thing.extent / 2 + _MARGIN
    x0, y0 = (max(0, int((middle - half) * size)) for middle in (thing.x, thing.y))
    x1, y1 = (min(size, int(np.ceil((middle + half) * size))) for middle in (thing.x, thing.y))
    return x0, y0, x1, y1


def hidden_scenes(world: World, size: int) -> Iterator[tuple[Scene, Box]]:
    """The world's scenes with the box of their second object, where it spares the first one."""
    for index in count():
        scene = world.scene(index)
        first, second = scene.objects
        x0, y0, x1, y1 = box_of(second, size)
        a0, b0, a1, b1 = box_of(first, size)
        if x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0:
            yield scene, (x0, y0, x1, y1)


def jump(image: Tensor, box: Box) -> float:
    """Median over a box's border of the difference between the pixels at its two sides.

    The image is (3, H, W), the difference absolute and the mean of the three channels'. Where the
    box ends at the image's edge there is no border. NaN if there is none at all.
    """
    x0, y0, x1, y1 = box
    height, width = image.shape[1:]
    across = [
        (image[:, y, x0:x1] - image[:, y - 1, x0:x1]).abs().mean(dim=0)
        for y in (y0, y1)
        if 0 < y < height
    ] + [
        (image[:, y0:y1, x] - image[:, y0:y1, x - 1]).abs().mean(dim=0)
        for x in (x0, x1)
        if 0 < x < width
    ]
    return float(torch.cat(across).median()) if across else float("nan")


def score_repainted(
    found: Sequence[Detections], scenes: Sequence[Scene], seam: float, true_seam: float
) -> Repainting:
    """Rates of what was found in images whose second object was repainted."""
    tally: dict[str, list[bool]] = {
        "object": [], "colour": [], "kept": [], "background": [], "exact": []
    }  # fmt: skip
    for one, scene in zip(found, scenes, strict=True):
        other, hidden = match(one.objects, scene.objects)
        back = hidden is not None and hidden.colour == scene.objects[1].colour
        kept = other is not None and other.colour == scene.objects[0].colour
        behind = background_right(one, scene)
        tally["object"].append(hidden is not None)
        if hidden is not None:
            tally["colour"].append(back)
        tally["kept"].append(kept)
        tally["background"].append(behind)
        tally["exact"].append(back and kept and behind and len(one.objects) == 2)
    rates = {name: Rate(sum(right), len(right)) for name, right in tally.items()}
    return Repainting(**rates, seam=seam, true_seam=true_seam)


def evaluate_inpainting(
    pipe: Pipeline,
    judge: Judge,
    config: WorldConfig,
    n: int = 200,
    settings: Settings | None = None,
    seed: int = 0,
    trust: bool = False,
    progress: Callable[[int], Any] = lambda steps: None,
) -> Repainting:
    """Hide the second object of `n` held-out scenes, and repaint it for the whole scene's caption.

    Args:
        settings: of the images; their size is that of the scenes.
        seed: of the first image; each has its own.
        trust: measure even if the judge errs in more than 3 % of real scenes.
        progress: called with 1 after every sampling step.

    Raises:
        ValueError: impossible numbers, or a judge that is not good enough.
    """
    if n < 1:
        raise ValueError(f"{n} scenes were asked for; take at least 1")
    settings, config = settings or Settings(), pairs(config)
    pipe.inpainting_steps(settings)  # what cannot be done is refused before the work
    size = max(32, settings.size or pipe.sizes[-1])
    if not trust:
        check_judge(real_scores(judge, config, max(n, 500), size))
    world = held_out(config)
    scenes: list[Scene] = []
    found: list[Detections] = []
    seams: list[tuple[float, float]] = []
    for number, (scene, box) in zip(range(n), hidden_scenes(world, size), strict=False):
        truth = world.render(scene, size)
        made = pipe.inpaint(
            Image.fromarray(truth),
            scene.plain_caption,
            boxes=[box],
            seed=seed_after(seed, number),
            settings=settings,
            output_type="tensor",
            callback_on_step_end=lambda *step: progress(step[-1]["images"]),
        ).images
        found += judge_images(judge, made)
        grey = torch.from_numpy(truth).permute(2, 0, 1).float()
        seams.append((jump(to_levels(made[0].cpu()), box), jump(grey, box)))
        scenes.append(scene)
    seam, true_seam = np.nanmean(seams, axis=0)
    return score_repainted(found, scenes, float(seam), float(true_seam))
