"""Composition measured: does an image show what its caption's scene holds?

The judge's findings are held against ground truth, object by object and scene by scene. The judge
itself is measured on real images of the same kind of scenes, and distrusted where it errs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from unclip.checks import many, seed_after
from unclip.data.world.scene import GRID, Object, Scene, WorldConfig
from unclip.data.world.shapes import ink_rows
from unclip.data.world.world import World
from unclip.evaluation.intervals import Rate
from unclip.evaluation.judge.network import COLOURS_OF, Detection, Detections, Judge, judge_images
from unclip.pixels import to_signed

TRUSTWORTHY: Final = 0.97  # least accuracy of the judge on real images
CHECKED: Final = ("object", "colour", "background", "relation")
_REAL: Final = 1000  # real scenes that the judge is checked on
_SLACK: Final = 3 / GRID  # of "inside" and "on", as a fraction of the side
Generate = Callable[[list[str], int], Tensor]
Matches = list[Detection | None]  # for each of a scene's objects, what was found of it


class Rated:
    """Base of results whose fields are rates, among others."""

    def rates(self) -> dict[str, Rate]:
        return {name: rate for name, rate in vars(self).items() if isinstance(rate, Rate)}


@dataclass(frozen=True)
class Composition(Rated):
    """How often images show what their captions say.

    Attributes:
        scenes: how many were scored.
        object: of the captioned objects, those of which a shape of that name was found (each
            found shape counts once).
        colour: of the objects found, those of the captioned colour.
        background: of the scenes whose caption says the background, those with the right kind
            and, of flat ones and gradients, the right colours (in any order).
        relation: of the scenes with a relation, those whose objects were found and stand in it.
        count: of the scenes whose caption counts, those with exactly as many objects, of any kind.
        binding: of the scenes of two objects that differ in shape and in colour, those with both
            (shape, colour) pairs right.
        exact: of all scenes, those whose objects are the captioned (shape, colour) pairs, no more.
    """

    scenes: int
    object: Rate
    colour: Rate
    background: Rate
    relation: Rate
    count: Rate
    binding: Rate
    exact: Rate

    def to_dict(self) -> dict[str, Any]:
        return {"scenes": self.scenes} | {n: rate.to_dict() for n, rate in self.rates().items()}

    def __str__(self) -> str:
        return "\n".join(f"{name:<10} {rate}" for name, rate in self.rates().items())


@dataclass(frozen=True)
class Evaluation:
    """A model's composition beside the judge's own on real images of the same size."""

    generated: Composition
    real: Composition

    def to_dict(self) -> dict[str, Any]:
        return {"generated": self.generated.to_dict(), "real": self.real.to_dict()}


def match(found: Sequence[Detection], objects: Sequence[Object]) -> Matches:
    """Each object's own detection of that shape, of its colour where possible, surest first."""
    free = list(found)
    result: Matches = [None] * len(objects)
    for colour_too in (True, False):
        for place, thing in enumerate(objects):
            if result[place] is not None:
                continue
            for one in free:
                if one.name == thing.name and (one.colour == thing.colour or not colour_too):
                    result[place] = one
                    free.remove(one)
                    break
    return result


def holds(relation: str, first: Detection, second: Detection) -> bool:
    """Whether `first` stands in `relation` to `second`, by their boxes alone."""
    dx, dy = second.x - first.x, second.y - first.y
    room = (second.extent - first.extent) / 2 + _SLACK
    inside = first.extent < second.extent and max(abs(dx), abs(dy)) <= room
    if relation == "inside":
        return inside
    if relation == "on":
        feet = first.y + first.extent * (ink_rows(first.name)[1] / (2 * GRID) - 0.5)
        top = second.y + second.extent * (ink_rows(second.name)[0] / (2 * GRID) - 0.5)
        return dy > 0 and abs(feet - top) <= _SLACK and abs(dx) <= second.extent / 2
    ahead = {"above": dy, "below": -dy, "left of": dx, "right of": -dx}[relation]
    # The direction that dominates is the one that the caption may claim.
    return not inside and ahead > 0 and ahead >= max(abs(dx), abs(dy))


def background_right(found: Detections, scene: Scene) -> bool:
    """The kind, and the colours of flat backgrounds and gradients in any order."""
    kind = scene.background.kind
    if found.background != kind:
        return False
    colours = set(scene.background.colours)
    return kind not in COLOURS_OF or set(found.background_colours) == colours


def score(detections: Sequence[Detections], scenes: Sequence[Scene]) -> Composition:
    """Hold findings against the scenes whose captions the images were made for.

    Raises:
        ValueError: not as many findings as scenes, or none.
    """
    if len(detections) != len(scenes) or not scenes:
        raise ValueError(
            f"{many(len(detections), 'images were')} judged for {many(len(scenes), 'scenes')}; "
            "give one image for each scene, and at least one"
        )
    tally: dict[str, list[bool]] = {name: [] for name in Composition.__annotations__}
    for found, scene in zip(detections, scenes, strict=True):
        for name, outcomes in _outcomes(found, scene).items():
            tally[name] += outcomes
    del tally["scenes"]
    rates = {name: Rate(sum(outcomes), len(outcomes)) for name, outcomes in tally.items()}
    return Composition(scenes=len(scenes), **rates)


def _outcomes(found: Detections, scene: Scene) -> dict[str, list[bool]]:
    """Right or wrong for every question that this scene asks."""
    if any(thing.kind != "shape" for thing in scene.objects):
        raise ValueError("the judge knows shapes only; score scenes of a world without emoji")
    matches = match(found.objects, scene.objects)
    pairs = list(zip(matches, scene.objects, strict=True))
    complete = all(one and one.colour == thing.colour for one, thing in pairs)
    outcomes = {
        "object": [one is not None for one in matches],
        "colour": [one.colour == thing.colour for one, thing in pairs if one],
        "exact": [complete and len(found.objects) == len(scene.objects)],
    }
    if scene.background_named:
        outcomes["background"] = [background_right(found, scene)]
    if scene.relation is not None:
        first, second = matches[:2]
        outcomes["relation"] = [bool(first and second and holds(scene.relation, first, second))]
    if scene.counted:
        outcomes["count"] = [len(found.objects) == len(scene.objects)]
    if len(pairs) == 2:
        one, two = scene.objects
        if one.name != two.name and one.colour != two.colour:
            outcomes["binding"] = [complete]
    return outcomes


def held_out(config: WorldConfig) -> World:
    """The configuration's world with the combinations that training never shows."""
    return World(replace(config, split="held-out", contrast=1))


def plain(config: WorldConfig, objects: int) -> WorldConfig:
    """The configuration with scenes of so many plain shapes."""
    return replace(
        config,
        kinds=("shapes",),
        min_objects=objects,
        max_objects=objects,
        textures=("plain",),
        styles=("plain",),
    )


def real_scores(
    judge: Judge, config: WorldConfig, n: int = _REAL, size: int = 64, first: int = 0
) -> Composition:
    """The judge on `n` real held-out scenes, from number `first` on, drawn at `size` pixels."""
    if n < 1:
        raise ValueError(f"{many(n, 'scenes were')} asked for; score at least 1")
    world = held_out(config)
    scenes = [world.scene(first + i) for i in range(n)]
    found: list[Detections] = []
    for part in _parts(scenes, 256):
        pixels = torch.from_numpy(np.stack([world.render(scene, size) for scene in part]))
        found += judge_images(judge, to_signed(pixels.permute(0, 3, 1, 2)))
    return score(found, scenes)


def check_judge(real: Composition) -> None:
    """Refuse a judge that errs on real images.

    Raises:
        ValueError: it is below 97 % on one of object, colour, background and relation.
    """
    for name in CHECKED:
        rate = real.rates()[name]
        if rate.total and rate.accuracy < TRUSTWORTHY:
            raise ValueError(
                f"the judge gets only {rate.accuracy:.1%} of {name} right on real held-out "
                f"scenes, below {TRUSTWORTHY:.0%}: train it longer, or on this world"
            )


def evaluate_model(
    generate: Generate,
    judge: Judge,
    config: WorldConfig,
    n: int = 1000,
    batch: int = 64,
    seed: int = 0,
    trust: bool = False,
) -> Evaluation:
    """Generate images for the captions of `n` held-out scenes, and score them.

    Args:
        generate: (captions, seed) → images (N, 3, H, H) in [-1, 1]; called with a new seed, that
            of the first of its captions, for each batch.
        judge: see `load_judge`.
        config: the world that the model was trained on; the split is replaced.
        n: number of scenes.
        batch: captions given to `generate` at once.
        seed: of the first caption's image; the following ones count on.
        trust: report even if the judge is below 97 % on real scenes of this size.

    Raises:
        ValueError: impossible numbers, another number of images than captions, or a judge that is
            not good enough, which shows after the first batch.
    """
    if n < 1 or batch < 1:
        raise ValueError(f"n is {n} and batch is {batch}; both must be at least 1")
    world = held_out(config)
    scenes = [world.scene(i) for i in range(n)]
    found: list[Detections] = []
    real: Composition | None = None
    for part in _parts(scenes, batch):
        captions = [scene.caption for scene in part]
        images = generate(captions, seed_after(seed, len(found)))
        if len(images) != len(captions):
            raise ValueError(
                f"{many(len(images), 'images were')} generated for "
                f"{many(len(captions), 'captions')}"
            )
        if real is None:
            size = min(max(images.shape[-1], 32), 1024)
            real = real_scores(judge, config, max(n, _REAL), size)
            if not trust:
                check_judge(real)
        found += judge_images(judge, images)
    assert real is not None
    return Evaluation(score(found, scenes), real)


def _parts(scenes: Sequence[Scene], size: int) -> Iterator[Sequence[Scene]]:
    for start in range(0, len(scenes), size):
        yield scenes[start : start + size]
