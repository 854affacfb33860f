"""What `unclip train all` will do: what follows from the data and from what was asked for, and how
long that takes on this machine.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from unclip.checks import many, printable
from unclip.data.registry import format_of
from unclip.data.sources import Source, Stream, unseen
from unclip.stages.catalogue import STAGES as SPECS
from unclip.stages.recipe import Recipe, open_data
from unclip.stages.spec import StageSpec, load_recipe
from unclip.storage.folder import ModelFolder
from unclip.storage.hub import resolve_model
from unclip.training.choices import (
    FEW_EPOCHS,
    MANY_EPOCHS,
    SMALLEST,
    STAGES,
    TUNING,
    Facts,
    Recipes,
    allotted,
    check_budget,
    seconds_of,
    suited,
    with_steps,
)
from unclip.training.job import Folders, Job
from unclip.training.plan import Needs, needs
from unclip.training.progress import Asked
from unclip.training.report import duration

_TUNED = 180.0  # seconds of a tuning without a budget, at least
_SHORT, _READ = 24, 50  # characters of a caption to try; captions to choose it from
_INIT = ("decoder", "upsampler")
"""Stages that can start from another model whatever the captions are: they draw."""


@dataclass(frozen=True)
class Outlook:
    """What follows from the data and from what was asked for.

    Attributes:
        recipes: of all stages, suited to the data, with the recipe's own steps.
        tunes: whether sampling is tuned: it was asked for, and there are captions to measure it on.
        caption: a short one of an image that training has not seen, if there is one.
    """

    asked: Asked
    recipes: Recipes
    tunes: bool
    caption: str

    @classmethod
    def of(cls, asked: Asked) -> "Outlook":
        """By the data, which is opened once."""
        source = open_data(replace(asked.data, size=_looked_at(asked.data.source)))
        recipes = _recipes(asked, Facts.of(source))
        return cls(asked, recipes, asked.tune and unseen(source) is not None, _example(source))


def _recipes(asked: Asked, facts: Facts) -> Recipes:
    recipes = suited(
        {name: load_recipe(SPECS[name], asked.recipe) for name in STAGES}, asked.data, facts
    )
    for name in _INIT:
        if asked.init and name in recipes and _fits(SPECS[name], recipes[name], asked.init):
            training = replace(recipes[name].training, init=asked.init)
            recipes[name] = replace(recipes[name], training=training)
    return recipes


def _example(source: Source | Stream) -> str:
    captions = islice((unseen(source) or source).captions(), _READ)
    return min(captions, key=lambda one: abs(len(one) - _SHORT))


def _looked_at(source: str) -> int:
    """Pixels of a side for which data is opened to see what it holds: as small as can be."""
    return max(SMALLEST, format_of(source).smallest)


def _fits(spec: StageSpec[Any], recipe: Recipe[Any], init: str) -> bool:
    """Whether a model has the network that the recipe asks for, for images of that size."""
    folder = ModelFolder(resolve_model(init, None, None, tuple(spec.components)))
    component = "decoder" if spec.name == "decoder" else next(iter(spec.components))
    folder.index()  # refuses what is no model
    if not folder.has(component):
        return False
    there, wanted = folder.config(component), recipe.network
    return there.get("sample_size") == recipe.data.size and (
        there.get("block_out_channels"), there.get("layers_per_block")
    ) == (list(wanted.widths), wanted.layers)  # fmt: skip


def measured(recipes: Recipes, device: str) -> dict[str, Needs]:
    """What each stage takes on this machine, with a CLIP that nobody has trained in the place of
    the one that will be."""
    takes: dict[str, Needs] = {}
    with tempfile.TemporaryDirectory(prefix="unclip-") as scratch:
        for name, recipe in recipes.items():
            folders = Folders(Path(scratch) / "model", Path(scratch) / name)
            plain = replace(recipe, training=replace(recipe.training, init=""))
            publishes = Job.publish if name == "clip" else lambda job: None
            takes[name] = needs(SPECS[name], plain, folders, device, publishes)
    return takes


def described(outlook: Outlook, takes: Mapping[str, Needs]) -> list[str]:
    """What will be trained, a line a stage, and how long it takes on this machine.

    Raises:
        ValueError: the budget is too short, or none can be held.
    """
    asked, recipes = outlook.asked, outlook.recipes
    step = {name: one.seconds for name, one in takes.items() if one.seconds is not None}
    images = takes["clip"].images
    if asked.budget is not None:
        if len(step) < len(recipes):
            raise ValueError(
                f"networks of the recipe {printable(asked.recipe)} are too large to be tried out, "
                "so that no budget can be held; leave --budget out for the recipe's own steps"
            )
        check_budget(asked.budget, step)
        steps = allotted(recipes, step, images, asked.budget)
        recipes = {name: with_steps(one, steps[name], step[name]) for name, one in recipes.items()}
    lines, whole = [takes["clip"].report] if takes["clip"].report else [], 0.0
    lines.append(
        f"{'stage':<10} {'images':>8} {'parameters':>12} {'steps x batch':>16} {'epochs':>7} "
        f"{'memory':>9} {'time':>8}"
    )
    for name in recipes:
        recipe, needed = recipes[name], takes[name]
        training = recipe.training
        time = seconds_of(training.steps, needed.seconds) if needed.seconds is not None else None
        epochs = f"{training.steps * training.batch_size / images:,.3g}" if images else ""
        memory = (needed.state + needed.activations) / 2**20
        pixels = f"{recipe.data.size} px"
        lines.append(
            f"{name:<10} {pixels:>8} {needed.parameters:>12,} "
            f"{f'{training.steps:,} x {training.batch_size:,}':>16} {epochs:>7} "
            f"{memory:>5,.0f} MiB {'' if time is None else duration(time):>8}"
            + f"  from {training.init}"
            * bool(training.init)
        )
        whole += time or 0.0
    tuning = tuning_seconds(asked.budget, whole) if outlook.tunes else 0.0
    if asked.tune and not outlook.tunes:
        lines.append("tune: left out, as no image is held out that it could be measured on")
    if outlook.tunes:
        lines.append(f"tune: guidance and sampler on held-out captions, {duration(tuning)}")
    drawn = recipes["decoder"].training
    epochs_drawn = drawn.steps * drawn.batch_size / images if images else 0.0
    if epochs_drawn and asked.budget and epochs_drawn < FEW_EPOCHS:
        lines.append("so few epochs of the decoder make blobs of colour: give it more time")
    if epochs_drawn > MANY_EPOCHS:
        lines.append(
            f"{many(images, 'images')}, seen {epochs_drawn:,.0f} times each, are learned by heart: "
            "what is not among them needs more images"
        )
    if len(step) == len(recipes):
        lines.append(f"in all {duration(whole + tuning)} on this machine, by steps measured now")
    return lines


def tuning_seconds(budget: float | None, trained: float) -> float:
    """Seconds for the tuning: a share of the budget or, without one, of the training's time."""
    return TUNING * budget if budget is not None else max(_TUNED, TUNING * trained)
