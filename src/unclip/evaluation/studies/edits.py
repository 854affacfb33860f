"""Manipulations measured: what the judge sees of text diffs, variations and blends.

Held-out scenes of one object on one background are drawn, encoded and manipulated. The judge, which
knows nothing of CLIP, says of each result its object, the object's colour, and the background. Each
scene is edited in one of them or in two at once, in turn.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from unclip.checks import seed_after
from unclip.config import one_of
from unclip.data.world.compose import Draft, Thing
from unclip.data.world.grammar import Grammar
from unclip.data.world.scene import COLOURS, Background, Object, Scene, WorldConfig
from unclip.data.world.scenery import PAINTED, visible_colours
from unclip.data.world.world import World
from unclip.evaluation.intervals import Rate
from unclip.evaluation.judge.network import Detections, Judge, judge_images
from unclip.evaluation.metrics.composition import (
    background_right,
    check_judge,
    held_out,
    plain,
    real_scores,
)
from unclip.outputs.latents import Latents
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.randomness import Draws

ATTRIBUTES: Final = ("object", "colour", "background")
TWO: Final = "two at once"
EDITS: Final = (*ATTRIBUTES, TWO)
_PAIRS: Final = tuple(itertools.combinations(ATTRIBUTES, 2))
THETAS: Final = (0.25, 0.35, 0.5)
STARTS: Final = ("inverted", "fresh")
ETAS: Final = (0.0, 1.0)
ENDS: Final = (0.0, 1.0)
_EDIT: Final = 90  # key of the stream that chooses new values


@dataclass(frozen=True)
class Case:
    """An edit, one of `EDITS`: a scene, and the same with other values of some attributes."""

    edit: str
    attributes: tuple[str, ...]
    scene: Scene
    wanted: Scene

    @property
    def captions(self) -> tuple[str, str]:
        """Of what it is and of what it should become, worded alike."""
        return self.scene.plain_caption, self.wanted.plain_caption


@dataclass(frozen=True)
class EditScore:
    """Edits of one attribute, or of two at once.

    Attributes:
        changed: those with the new values.
        kept: those whose other attributes are the scene's.
        success: those with both.
    """

    changed: Rate
    kept: Rate
    success: Rate

    def to_dict(self) -> dict[str, Any]:
        return {name: rate.to_dict() for name, rate in vars(self).items()}


@dataclass(frozen=True)
class Edits:
    """Everything that was measured.

    Attributes:
        scenes: how many were manipulated.
        edits: start ("inverted" latents, or "fresh" noise) → θ → edit, of `EDITS` → scores.
        variations: "η = 0" and "η = 1", from inverted latents → attribute, or "all" three → how
            often it is the scene's. With η = 0 they are the reconstructions.
        ends: of blends between two scenes' latents, "θ = 0" and "θ = 1" → how often it is the first
            and the second scene's, as `variations`.
    """

    scenes: int
    edits: dict[str, dict[float, dict[str, EditScore]]]
    variations: dict[str, dict[str, Rate]]
    ends: dict[str, dict[str, Rate]]

    def best(self, start: str, edit: str) -> float:
        """The θ with most successes, the smallest of equal ones. Chosen on the scenes that it is
        measured on, so its rate is a little flattering."""
        scores = self.edits[start]
        return max(scores, key=lambda theta: (scores[theta][edit].success.right, -theta))

    def to_dict(self) -> dict[str, Any]:
        return {
            "scenes": self.scenes,
            "edits": {
                start: {
                    f"{theta:g}": {name: score.to_dict() for name, score in scores.items()}
                    for theta, scores in by_theta.items()
                }
                for start, by_theta in self.edits.items()
            },
            "best_theta": {
                start: {name: self.best(start, name) for name in next(iter(scores.values()))}
                for start, scores in self.edits.items()
            },
            "variations": _plain(self.variations),
            "blend_ends": _plain(self.ends),
        }


def _plain(rates: dict[str, dict[str, Rate]]) -> dict[str, Any]:
    return {key: {name: rate.to_dict() for name, rate in row.items()} for key, row in rates.items()}


# ---- what should change ---------------------------------------------------------------------


def single(config: WorldConfig) -> WorldConfig:
    """The configuration with scenes of one plain shape, which one edit can be named for."""
    return plain(config, 1)


def case(scene: Scene, edit: str, config: WorldConfig) -> Case:
    """The scene with another shape, colour or background, or two of them, in which the object still
    stands out.

    New values are some that the configuration knows, a function of the scene's seed and number.

    Args:
        edit: one of `EDITS`; which two change at once follows from the scene's number.

    Raises:
        ValueError: the configuration leaves no other value; an unknown edit.
    """
    one_of(edit, "edit", EDITS)
    attributes = _PAIRS[scene.index % len(_PAIRS)] if edit == TWO else (edit,)
    (thing,), behind = scene.objects, scene.background
    for attribute in attributes:
        thing, behind = _other(scene, attribute, thing, behind, config)
    words = Thing(thing.kind, thing.name, thing.colour, thing.texture, thing.size)
    caption = Grammar().plain_caption(Draft((words,), behind, None, "plain", False))
    wanted = replace(
        scene, objects=(thing,), background=behind, caption=caption, plain_caption=caption
    )
    return Case(edit, attributes, scene, wanted)


def _other(
    scene: Scene, attribute: str, thing: Object, behind: Background, config: WorldConfig
) -> tuple[Object, Background]:
    """The object and what is behind it, one of them with another value of the attribute."""
    if attribute == "object":
        names = [name for name in config.shapes if name != thing.name]
        return replace(thing, name=_pick(scene, attribute, names)), behind
    if attribute == "colour":
        visible = visible_colours(behind.kind, behind.colours)
        names = [name for name in visible if name in config.colours and name != thing.colour]
        return replace(thing, colour=_pick(scene, attribute, names)), behind
    options = [("flat", (name,)) for name in COLOURS] + [(kind, ()) for kind in PAINTED]
    return thing, Background(*_pick(scene, attribute, [
        (kind, colours) for kind, colours in options
        if kind in config.backgrounds
        and (kind, colours) != (behind.kind, behind.colours)
        and thing.colour in visible_colours(kind, colours)
    ]))  # fmt: skip


def _pick(scene: Scene, attribute: str, values: Sequence[Any]) -> Any:
    if not values:
        raise ValueError(f"this world has no other {attribute} for: {scene.plain_caption}")
    return Draws(_EDIT, scene.seed, scene.index).pick(values)


# ---- what the judge sees --------------------------------------------------------------------


def agreement(found: Detections, scene: Scene) -> dict[str, bool]:
    """Whether the surest object, its colour and the background are those of a scene of one."""
    (thing,) = scene.objects
    first = found.objects[0] if found.objects else None
    return {
        "object": first is not None and first.name == thing.name,
        "colour": first is not None and first.colour == thing.colour,
        "background": background_right(found, scene),
    }


def score_edits(found: Sequence[Detections], cases: Sequence[Case]) -> dict[str, EditScore]:
    """Scores by edit, of those that there are, of what was found in the result of each case."""
    there = {one.edit for one in cases}
    outcomes: dict[str, list[tuple[bool, bool]]] = {name: [] for name in EDITS if name in there}
    for one, wish in zip(found, cases, strict=True):
        seen = agreement(one, wish.wanted)
        asked = [seen.pop(name) for name in wish.attributes]
        outcomes[wish.edit].append((all(asked), all(seen.values())))
    return {
        name: EditScore(
            _rate(changed for changed, _ in pairs),
            _rate(kept for _, kept in pairs),
            _rate(changed and kept for changed, kept in pairs),
        )
        for name, pairs in outcomes.items()
    }


def score_kept(found: Sequence[Detections], scenes: Sequence[Scene]) -> dict[str, Rate]:
    """How often each attribute, and all of them, are the scenes' own."""
    seen = [agreement(one, scene) for one, scene in zip(found, scenes, strict=True)]
    rates = {name: _rate(one[name] for one in seen) for name in ATTRIBUTES}
    return rates | {"all": _rate(all(one.values()) for one in seen)}


def _rate(outcomes: Any) -> Rate:
    listed = list(outcomes)
    return Rate(sum(listed), len(listed))


# ---- a model measured -----------------------------------------------------------------------


def images_made(n: int, thetas: Sequence[float]) -> int:
    """How many images `evaluate_edits` inverts and makes, for progress bars."""
    return n * (1 + len(STARTS) * len(thetas) + len(ETAS)) + n // 2 * len(ENDS)


def evaluate_edits(
    pipe: Pipeline,
    judge: Judge,
    config: WorldConfig,
    n: int = 200,
    thetas: Sequence[float] = THETAS,
    steps: int = 50,
    settings: Settings | None = None,
    batch: int = 32,
    seed: int = 0,
    trust: bool = False,
    progress: Callable[[int], Any] = lambda images: None,
) -> Edits:
    """Edit, vary and blend `n` held-out scenes of one object, and judge the results.

    Args:
        thetas: of the edits; all of them are made of every scene.
        steps: of the inversion, and of decoding from inverted latents.
        settings: of decoding; its size is the decoder's if left out.
        batch: scenes at a time.
        seed: of the first scene's fresh noise; each scene has its own.
        trust: measure even if the judge errs in more than 3 % of real scenes.
        progress: called with the number of images that were inverted or made.

    Raises:
        ValueError: impossible numbers, or a judge that is not good enough.
    """
    if n < 2 or batch < 1:
        raise ValueError(f"n is {n} and batch is {batch}: take 2 scenes or more, 1 or more at once")
    if not thetas or not all(0 <= theta <= 1 for theta in thetas):
        given = ", ".join(map(str, thetas)) or "left out"
        raise ValueError(f"θ is {given}; it must lie between 0 and 1")
    config, thetas = single(config), tuple(dict.fromkeys(thetas))
    settings = settings or Settings()
    settings = settings if settings.size else replace(settings, size=pipe.decoder.size)
    pipe.evaluations(settings, "decoder")  # what cannot be done is refused before the work
    if not trust:
        size = min(max(settings.size or 0, 32), 1024)  # of the world's scenes
        check_judge(real_scores(judge, replace(config, size=size), max(n, 500)))
    world = held_out(config)
    cases = [case(world.scene(i), EDITS[i % len(EDITS)], config) for i in range(n)]
    found: dict[tuple[str, float], list[Detections]] = {}

    def judged(kind: str, values: Sequence[float], images: Tensor) -> None:
        """Images of one scene or more, all values of the first, then of the second, …"""
        for k, one in enumerate(judge_images(judge, images)):
            found.setdefault((kind, values[k % len(values)]), []).append(one)
        progress(len(images))

    common: dict[str, Any] = {"settings": settings, "output_type": "tensor"}
    previous: Latents | None = None
    for start in range(0, n, batch):
        part = cases[start : start + batch]
        pictures = [_drawn(world, one.scene, pipe.decoder.size) for one in part]
        latents = pipe.invert(pictures, steps, batch_size=batch)
        progress(len(part))
        seeds = [seed_after(seed, start + i) for i in range(len(part))]
        for eta in ETAS:
            noise = [torch.Generator().manual_seed(one % 2**64) for one in seeds]
            made = pipe.vary(latents, eta=eta, generator=noise, batch_size=batch, **common)
            judged("variation", [eta], made.images)
        for one, picture, own, k in zip(part, pictures, _each(latents), seeds, strict=True):
            was, becomes = one.captions
            more = {**common, "seed": k, "batch_size": len(thetas)}
            for kind in STARTS:
                origin: Latents | Image.Image = own if kind == "inverted" else picture
                made = pipe.edit(origin, becomes, was, list(thetas), **more)
                judged(kind, thetas, made.images)
            if previous is not None:
                made = pipe.blend(_both(previous, own), 2, batch_size=2, **common)
                judged("end", ENDS, made.images)
            previous = own if previous is None else None
    scenes = [one.scene for one in cases]
    ends = {0.0: scenes[: n - n % 2 : 2], 1.0: scenes[1::2]}
    return Edits(
        n,
        {kind: {x: score_edits(found[kind, x], cases) for x in thetas} for kind in STARTS},
        {f"η = {eta:g}": score_kept(found["variation", eta], scenes) for eta in ETAS},
        {f"θ = {x:g}": score_kept(found["end", x], ends[x]) for x in ENDS},
    )


def _both(one: Latents, other: Latents) -> Latents:
    z_i, x_T = torch.cat([one.z_i, other.z_i]), torch.cat([one.x_T, other.x_T])  # noqa: N806
    return replace(one, z_i=z_i, x_T=x_T)


def _each(latents: Latents) -> Iterator[Latents]:
    for i in range(len(latents)):
        yield replace(latents, z_i=latents.z_i[i : i + 1], x_T=latents.x_T[i : i + 1])


def _drawn(world: World, scene: Scene, size: int) -> Image.Image:
    return Image.fromarray(world.render(scene, min(max(size, 32), 1024)))
