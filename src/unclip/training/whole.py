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
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from unclip.checks import many, printable
from unclip.config import Between, Checked, from_mapping, to_mapping
from unclip.data.registry import format_of
from unclip.data.sources import unseen
from unclip.files import read_json, write_json
from unclip.stages.catalogue import STAGES as SPECS
from unclip.stages.recipe import Data, Recipe, open_data
from unclip.stages.spec import StageSpec, load_recipe, resumed_recipe
from unclip.storage.folder import ModelFolder
from unclip.storage.hub import resolve_model
from unclip.training.checkpoint import checkpoints, step_of
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
    laps_of,
    seconds_for,
    seconds_of,
    suited,
    with_steps,
    within,
)
from unclip.training.job import Folders, Job
from unclip.training.plan import Needs, needs
from unclip.training.report import duration
from unclip.training.run import RECIPE, forget, held
from unclip.training.start import check_folders, start

NOTE = "all.json"
_SHORT, _READ = 24, 50  # characters of a caption to try; captions to choose it from
INIT = ("decoder", "upsampler")
"""Stages that can start from another model whatever the captions are: they draw."""

Tune = Callable[[Path, str, float | None], None]
"""Chooses the sampling's settings of a model folder, on data, in so many seconds, and writes them
there."""

Seconds = Annotated[float, Between(0, 10**9)]
Whole = Annotated[int, Between(0, 2**62)]


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
    budget: Seconds | None = None
    init: str = ""
    tune: bool = True


@dataclass(frozen=True)
class Progress(Checked):
    """What `all.json` holds.

    Attributes:
        images: of the data; 0 where they have no end.
        step: seconds of a step of each stage, measured before the first one began or, where it has
            run a lap, in that; none of those that are too large to be tried out.
        given: seconds that a stage was to take when it began.
        steps: of a stage that has begun within a budget, as decided at the start of its lap.
        laps: that a stage has run, of `choices.LAPS`.
        took: seconds that stages took until now, but for what was killed; those that are `done` are
            complete.
    """

    asked: Asked
    images: Whole = 0
    step: Mapping[str, Seconds] = field(default_factory=dict)
    given: Mapping[str, Seconds] = field(default_factory=dict)
    steps: Mapping[str, Whole] = field(default_factory=dict)
    laps: Mapping[str, Whole] = field(default_factory=dict)
    took: Mapping[str, Seconds] = field(default_factory=dict)
    done: tuple[str, ...] = ()

    @property
    def left(self) -> float | None:
        """Seconds of the budget, as far as is known: a stage under way counts as what it was
        given."""
        under_way = {name: one for name, one in self.given.items() if name not in self.done}
        budget = self.asked.budget
        return None if budget is None else budget - sum({**self.took, **under_way}.values())

    def begun(self, name: str, recipes: Recipes, made: int = 0) -> "Progress":
        """With a stage that begins, or has made some steps and gets another time: its time, of
        what is left, and its steps."""
        left, before = self.left, self.took.get(name, 0.0)
        if left is None:
            seconds = seconds_of(recipes[name].training.steps, self.step.get(name, 0.0))
            return replace(self, given={**self.given, name: seconds})
        if name not in self.step:
            raise ValueError(
                f"the {name} is too large to be tried out, so that no budget can be held; leave "
                "--budget out for the recipe's own steps"
            )
        later = [other for other in recipes if other not in self.done]
        time = max(seconds_for(name, later, left), 0.0)
        count = made + int(time / seconds_of(1, self.step[name]))
        steps = max(within(name, count, recipes[name], self.images), made)
        given = {**self.given, name: before + time}
        return replace(self, given=given, steps={**self.steps, name: steps})

    def within(self, budget: float) -> "Progress":
        """With another budget, and nothing given to what is under way."""
        given = {name: one for name, one in self.given.items() if name in self.done}
        return replace(self, asked=replace(self.asked, budget=budget), given=given)

    def interrupted(self, name: str, took: float) -> "Progress":
        """With the seconds of a lap that was stopped."""
        return replace(self, took={**self.took, name: self.took.get(name, 0.0) + took})

    def lapped(
        self, name: str, recipe: Recipe[Any], made: int, until: int, took: float
    ) -> "Progress":
        """With a lap of a stage, `made` steps up to `until`, and the steps that are left decided by
        it."""
        spent = self.interrupted(name, took)
        after = replace(spent, laps={**self.laps, name: self.laps.get(name, 0) + 1})
        if not made or until >= self.steps.get(name, 0):
            return after
        step = took / made
        count = until + int(max(self.given[name] - after.took[name], 0.0) / step)
        steps = max(within(name, count, recipe, self.images), until)
        return replace(after, step={**self.step, name: step}, steps={**self.steps, name: steps})


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

    def made(self, stage: str) -> int:
        """Steps in a stage's newest checkpoint."""
        there = checkpoints(self.run / stage / "checkpoints")
        return max(map(step_of, there), default=0)


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
        return _Whole(progress, place, recipes).run(tune)


def resume_all(
    place: Place, tune: Tune | None, data: str | None = None, budget: float | None = None
) -> int:
    """What is left of an earlier `train_all`, as it was asked for; its results.

    Args:
        data: that it was asked with, if it is said again.
        budget: another one, for everything, with what it took until now.

    Raises:
        ValueError: there is nothing to resume, it is of other data, or all is done where more time
            is given.
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
    recipes = recipes_of(asked)
    if budget is not None:
        if set(recipes) <= set(progress.done):
            model = shlex.quote(str(place.model))
            raise ValueError(
                f"all stages of {printable(model)} are trained; to train one of them further: "
                f"unclip train decoder --model {printable(model)} --resume --training.steps N"
            )
        under_way = [name for name in progress.given if name not in progress.done]
        progress = progress.within(budget)
        for name in under_way:
            progress = progress.begun(name, recipes, place.made(name))
    with held(place.run):
        return _Whole(progress, place, recipes).run(tune)


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


def _example(data: Data) -> str:
    """A short caption of an image that training has not seen, if there is one."""
    source = open_data(data)
    captions = islice((unseen(source) or source).captions(), _READ)
    return min(captions, key=lambda one: abs(len(one) - _SHORT))


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
    tuning = TUNING * asked.budget if asked.tune and asked.budget else 0.0
    if asked.tune:
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


class _Whole:
    """All stages under way."""

    def __init__(self, progress: Progress, place: Place, recipes: Recipes) -> None:
        self.place, self.recipes = place, recipes
        self._note(progress)

    def run(self, tune: Tune | None) -> int:
        """All that is not done yet, in its order; 0, or the signal that stopped it."""
        work: dict[str, Callable[[], int]] = {
            name: partial(self._train, name) for name in self.recipes
        }
        if tune is not None and self.progress.asked.tune:
            work["tune"] = partial(self._tune, tune)
        for number, (name, one) in enumerate(work.items(), 1):
            if name in self.progress.done:
                continue
            self.title = f"[{number}/{len(work)}] {name}"
            try:
                stopped = one()
            except KeyboardInterrupt:  # while data is read or a stage is built
                stopped = signal.SIGINT
            if stopped:
                again = f"unclip train all --model {shlex.quote(str(self.place.model))} --resume"
                said = signal.Signals(stopped).name
                print(f"{self.title}: stopped by {said}; to go on: {printable(again)}", flush=True)
                return stopped
            self._note(replace(self.progress, done=(*self.progress.done, name)))
            left = self.progress.left
            rest = "" if left is None else f"; {duration(max(left, 0))} left"
            print(f"{self.title} took {duration(self.progress.took[name])}{rest}", flush=True)
        caption = shlex.quote(printable(_example(self.recipes["clip"].data)))
        model = printable(shlex.quote(str(self.place.model)))
        print(f"to draw with it: unclip generate {caption} --model {model}", flush=True)
        return 0

    def _train(self, name: str) -> int:
        """One stage, lap after lap, from where it is."""
        if name not in self.progress.given:
            forget(self.place.run / name)  # an earlier training's, with --overwrite
            self._note(self.progress.begun(name, self.recipes))
        budgeted = name in self.progress.steps
        laps = laps_of(self.progress.given[name]) if budgeted else (1.0,)
        for part in laps[self.progress.laps.get(name, 0) :]:
            recipe, before = self._recipe(name), self.place.made(name)
            self._say(name, recipe)
            until = max(round(part * recipe.training.steps), before, 1)
            # What is there of a stage that has no checkpoint may go: that was settled at first.
            folders = self.place.folders(name, resume=before > 0, overwrite=before == 0)
            begun = time.monotonic()
            stopped = start(SPECS[name], recipe, folders, self.place.device, until, reports=False)
            took = time.monotonic() - begun
            if stopped:
                self._note(self.progress.interrupted(name, took))
                return stopped
            self._note(self.progress.lapped(name, recipe, until - before, until, took))
        return 0

    def _recipe(self, name: str) -> Recipe[Any]:
        """Of a stage under way: as it was when it began, with the steps of this lap."""
        file, own = self.place.run / name / RECIPE, self.recipes[name]
        recipe = resumed_recipe(SPECS[name], file) if self.place.made(name) else own
        if name not in self.progress.steps:
            return recipe
        plain = replace(recipe, training=own.training, optimiser=own.optimiser)
        return with_steps(plain, self.progress.steps[name], self.progress.step[name])

    def _say(self, name: str, recipe: Recipe[Any]) -> None:
        training, progress = recipe.training, self.progress
        epochs = training.steps * training.batch_size / max(1, progress.images)
        left = progress.given[name] - progress.took.get(name, 0.0)
        lap = progress.laps.get(name, 0)
        print(
            f"{self.title}: {training.steps:,} steps of {training.batch_size} images of "
            f"{recipe.data.size} px"
            + f", {epochs:,.3g} epochs" * bool(progress.images)
            + f", about {duration(max(left, 0.0))}" * bool(progress.given[name])
            + ", by the time that the first ones took" * bool(lap),
            flush=True,
        )

    def _tune(self, tune: Tune) -> int:
        left, budget = self.progress.left, self.progress.asked.budget
        seconds = None
        if left is not None and budget is not None:
            seconds = min(max(left, TUNING * budget), 2 * TUNING * budget)
        print(f"{self.title}: how the model is sampled, by held-out captions", flush=True)
        begun = time.monotonic()
        try:
            tune(self.place.model, self.progress.asked.data.source, seconds)
        except KeyboardInterrupt:
            return signal.SIGINT
        except ValueError as error:  # the model is trained, and sampled as its stages say
            print(f"{self.title}: not tuned: {error}", flush=True)
        took = {**self.progress.took, "tune": time.monotonic() - begun}
        self._note(replace(self.progress, took=took))
        return 0

    def _note(self, progress: Progress) -> None:
        self.progress = progress
        write_json(self.place.run / NOTE, to_mapping(progress))
