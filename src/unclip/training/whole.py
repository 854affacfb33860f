"""All stages of a model, one after the other: `unclip train all`.

What was asked, and how far it has come, is in `all.json` beside the stages' runs. A stage that has
begun has its recipe there, with its steps, so that it goes on bit for bit; one that has not gets
what is left of the time.
"""

import shlex
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from unclip.checks import printable
from unclip.config import Between, Checked, from_mapping, to_mapping
from unclip.data.registry import format_of
from unclip.files import read_json, write_json
from unclip.stages.catalogue import STAGES as SPECS
from unclip.stages.recipe import Data, Recipe, open_data
from unclip.stages.spec import StageSpec, load_recipe, resumed_recipe
from unclip.storage.folder import ModelFolder
from unclip.storage.hub import resolve_model
from unclip.training.choices import (
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
from unclip.training.report import duration
from unclip.training.run import RECIPE, held
from unclip.training.start import check_folders, start

NOTE = "all.json"
INIT = ("decoder", "upsampler")
"""Stages that can start from another model whatever the captions are: they draw."""

Tune = Callable[[Path, str, float | None], None]
"""Chooses the sampling's settings of a model folder, on data, in so many seconds, and writes them
there."""


@dataclass(frozen=True)
class Asked(Checked):
    """What `unclip train all` was asked for.

    Attributes:
        recipe: a name, or a file.
        budget: seconds for everything; None: the recipe's own steps.
        init: model from which decoder and upsampler start, where its sizes are theirs; "": none.
        tune: whether sampling is tuned at the end.
    """

    data: Data
    recipe: str = "small"
    budget: Annotated[float, Between(0, 10**9)] | None = None
    init: str = ""
    tune: bool = True


@dataclass(frozen=True)
class Progress(Checked):
    """What `all.json` holds.

    Attributes:
        images: of the data; 0 where they have no end.
        step: seconds of a step of each stage, measured before the first one began; none of those
            that are too large to be tried out.
        given: seconds that a stage was to take when it began.
        took: seconds that it took; those that are done have one.
    """

    asked: Asked
    images: int = 0
    step: Mapping[str, float] = field(default_factory=dict)
    given: Mapping[str, float] = field(default_factory=dict)
    took: Mapping[str, float] = field(default_factory=dict)

    @property
    def spent(self) -> float:
        """Seconds, as far as is known: a stage under way counts as what it was given."""
        return sum({**self.given, **self.took}.values())

    @property
    def pace(self) -> float:
        """How many times as long as they were to the stages took that are done."""
        done = [name for name in self.took if self.given.get(name)]
        given = sum(self.given[name] for name in done)
        return sum(self.took[name] for name in done) / given if given else 1.0

    def recipe(self, name: str, recipes: Recipes) -> Recipe[Any]:
        """Of the stage that begins: with the steps that what is left of the time allows."""
        budget = self.asked.budget
        if budget is None:
            return recipes[name]
        later = {other: one for other, one in recipes.items() if other not in self.took}
        step = {other: self.step[other] * self.pace for other in later}
        steps = allotted(later, step, self.images, budget - self.spent)
        return with_steps(recipes[name], steps[name], step[name])


@dataclass(frozen=True)
class Place:
    """Where a whole model goes.

    Attributes:
        run: folder of the stages' runs, one each.
    """

    model: Path
    run: Path
    device: str = "auto"

    def folders(self, stage: str, resume: bool = False, overwrite: bool = False) -> Folders:
        """Of one stage."""
        return Folders(self.model, self.run / stage, resume, overwrite)


def train_all(asked: Asked, place: Place, tune: Tune | None, overwrite: bool = False) -> int:
    """Train all stages, and tune their sampling.

    Returns:
        0, or the number of the signal that stopped it.

    Raises:
        ValueError: anything that stands in the way, before any training.
    """
    for name in STAGES:
        check_folders(SPECS[name], place.folders(name, overwrite=overwrite))
    recipes = recipes_of(asked)
    takes = measured(recipes, place)
    print("\n".join(described(asked, recipes, takes)), flush=True)
    step = {name: one.seconds for name, one in takes.items() if one.seconds is not None}
    progress = Progress(asked, takes["clip"].images, step)
    place.run.mkdir(parents=True, exist_ok=True)
    with held(place.run):
        return _Whole(progress, place, recipes, overwrite).run(tune)


def resume_all(
    place: Place, tune: Tune | None, data: str | None = None, budget: float | None = None
) -> int:
    """What is left of an earlier `train_all`, as it was asked for; its results.

    Args:
        data: that it was asked with, if it is said again.
        budget: another one; what is under way keeps its steps.
    """
    note = place.run / NOTE
    if not note.is_file():
        raise ValueError(
            f"nothing to resume: {place.run} holds no run of train all; if it is elsewhere, say "
            "where with --run"
        )
    progress = from_mapping(Progress, read_json(note), str(note))
    asked = progress.asked
    if data not in (None, asked.data.source):
        raise ValueError(
            f"{place.run} was begun with the data {printable(asked.data.source)}: leave --data "
            "out to go on with it, or add --overwrite in --resume's place"
        )
    if budget is not None:
        progress = replace(progress, asked=replace(asked, budget=budget))
    with held(place.run):
        return _Whole(progress, place, recipes_of(progress.asked), overwrite=False).run(tune)


def recipes_of(asked: Asked) -> Recipes:
    """Of all stages, suited to the data, with the recipe's own steps."""
    facts = Facts.of(open_data(replace(asked.data, size=_looked_at(asked.data.source))))
    recipes = suited(
        {name: load_recipe(SPECS[name], asked.recipe) for name in STAGES}, asked.data, facts
    )
    for name in INIT:
        if asked.init and name in recipes and _fits(SPECS[name], recipes[name], asked.init):
            training = replace(recipes[name].training, init=asked.init)
            recipes[name] = replace(recipes[name], training=training)
    return recipes


def _looked_at(source: str) -> int:
    """Pixels of a side for which data is opened to see what it holds: as small as can be."""
    return max(SMALLEST, format_of(source).smallest)


def _fits(spec: StageSpec[Any], recipe: Recipe[Any], init: str) -> bool:
    """Whether a model has the network that the recipe asks for, for images of that size."""
    folder = ModelFolder(resolve_model(init, None, None, tuple(spec.components)))
    component = "decoder" if spec.name == "decoder" else next(iter(spec.components))
    if not folder.has(component):
        return False
    there, wanted = folder.config(component), recipe.network
    return there.get("sample_size") == recipe.data.size and (
        there.get("block_out_channels"), there.get("layers_per_block")
    ) == (list(wanted.widths), wanted.layers)  # fmt: skip


def measured(recipes: Recipes, place: Place) -> dict[str, Needs]:
    """What each stage takes on this machine, with a CLIP that nobody has trained in the place of
    the one that will be."""
    takes: dict[str, Needs] = {}
    with tempfile.TemporaryDirectory(prefix="unclip-") as scratch:
        for name, recipe in recipes.items():
            folders = Folders(Path(scratch) / "model", Path(scratch) / name)
            plain = replace(recipe, training=replace(recipe.training, init=""))
            publishes = Job.publish if name == "clip" else lambda job: None
            takes[name] = needs(SPECS[name], plain, folders, place.device, publishes)
    return takes


def described(asked: Asked, recipes: Recipes, takes: Mapping[str, Needs]) -> list[str]:
    """What will be trained, a line a stage, and how long it takes on this machine.

    Raises:
        ValueError: the budget is too short, or none can be held.
    """
    step = {name: one.seconds for name, one in takes.items() if one.seconds is not None}
    images = takes["clip"].images
    progress = Progress(asked, images, step)
    if asked.budget is not None:
        if len(step) < len(recipes):
            raise ValueError(
                f"networks of the recipe {printable(asked.recipe)} are too large to be tried out, "
                "so that no budget can be held; leave --budget out for the recipe's own steps"
            )
        check_budget(asked.budget, step)
    lines, whole = [takes["clip"].report] if takes["clip"].report else [], 0.0
    lines.append(
        f"{'stage':<10} {'images':>8} {'parameters':>12} {'steps':>16} {'epochs':>7} "
        f"{'memory':>9} {'time':>8}"
    )
    for name in recipes:
        recipe, needed = progress.recipe(name, recipes), takes[name]
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
        given = {**progress.given, name: time or 0.0}
        progress, whole = replace(progress, given=given, took=given), whole + (time or 0.0)
    tuning = TUNING * asked.budget if asked.tune and asked.budget else 0.0
    if asked.tune:
        lines.append(f"tune: guidance and sampler on held-out captions, {duration(tuning)}")
    if len(step) == len(recipes):
        lines.append(f"in all {duration(whole + tuning)} on this machine, by steps measured now")
    return lines


class _Whole:
    """All stages under way."""

    def __init__(self, progress: Progress, place: Place, recipes: Recipes, overwrite: bool) -> None:
        self.place, self.recipes, self.overwrite = place, recipes, overwrite
        self._note(progress)

    def run(self, tune: Tune | None) -> int:
        """All that is not done yet, in its order; 0, or the signal that stopped it."""
        work: dict[str, Callable[[], int]] = {
            name: partial(self._train, name) for name in self.recipes
        }
        if tune is not None and self.progress.asked.tune:
            work["tune"] = partial(self._tune, tune)
        for number, (name, one) in enumerate(work.items(), 1):
            if name in self.progress.took:
                continue
            begun, self.title = time.monotonic(), f"[{number}/{len(work)}] {name}"
            stopped = one()
            if stopped:
                again = f"unclip train all --model {shlex.quote(str(self.place.model))} --resume"
                said = signal.Signals(stopped).name
                print(f"{self.title}: stopped by {said}; to go on: {printable(again)}", flush=True)
                return stopped
            self._done(name, time.monotonic() - begun)
        return 0

    def _train(self, name: str) -> int:
        """One stage: from its checkpoint, or with the recipe that it began with, or from the
        start."""
        spec, folders = SPECS[name], self.place.folders(name)
        begun = name in self.progress.given and (folders.run / RECIPE).is_file()
        if begun:
            recipe = resumed_recipe(spec, folders.run / RECIPE)
        else:
            recipe = self.progress.recipe(name, self.recipes)
        training, step = recipe.training, self.progress.step.get(name, 0.0) * self.progress.pace
        seconds = seconds_of(training.steps, step)
        self._note(replace(self.progress, given={**self.progress.given, name: seconds}))
        epochs = training.steps * training.batch_size / max(1, self.progress.images)
        print(
            f"{self.title}: {training.steps:,} steps of {training.batch_size} images of "
            f"{recipe.data.size} px" + f", {epochs:,.3g} epochs" * bool(self.progress.images)
            + f", about {duration(seconds)}" * bool(seconds),
            flush=True,
        )  # fmt: skip
        resume = begun and any((folders.run / "checkpoints").glob("*"))
        anew = not resume and (begun or self.overwrite)
        return start(spec, recipe, self.place.folders(name, resume, anew), self.place.device)

    def _tune(self, tune: Tune) -> int:
        budget = self.progress.asked.budget
        seconds = None if budget is None else max(budget - self.progress.spent, TUNING * budget)
        print(f"{self.title}: how the model is sampled, by held-out captions", flush=True)
        try:
            tune(self.place.model, self.progress.asked.data.source, seconds)
        except KeyboardInterrupt:
            return signal.SIGINT
        except ValueError as error:  # the model is trained, and sampled as its stages say
            print(f"{self.title}: not tuned: {error}", flush=True)
        return 0

    def _done(self, name: str, seconds: float) -> None:
        self._note(replace(self.progress, took={**self.progress.took, name: seconds}))
        budget = self.progress.asked.budget
        left = "" if budget is None else f"; {duration(max(budget - self.progress.spent, 0))} left"
        print(f"{self.title} took {duration(seconds)}{left}", flush=True)

    def _note(self, progress: Progress) -> None:
        self.progress = progress
        write_json(self.place.run / NOTE, to_mapping(progress))
