"""All stages of a model, one after the other: `unclip train all`.

What was asked, and how far it has come, is in `all.json` beside the stages' runs. A stage that has
begun has its recipe there, with its steps, so that it goes on bit for bit; one that has not gets
what is left of the time.
"""

import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from unclip.checks import flag, printable
from unclip.config import from_mapping, to_mapping
from unclip.files import read_json, write_json
from unclip.stages.catalogue import STAGES as SPECS
from unclip.stages.recipe import Data, Recipe
from unclip.stages.spec import resumed_recipe
from unclip.storage.folder import ModelFolder
from unclip.training.checkpoint import checkpoints, step_of
from unclip.training.choices import (
    STAGES,
    Recipes,
    laps_of,
    with_steps,
)
from unclip.training.job import Folders
from unclip.training.outlook import Outlook, described, measured, tuning_seconds
from unclip.training.progress import Asked, Progress
from unclip.training.report import duration
from unclip.training.run import RECIPE, forget, held, run_folder, sign
from unclip.training.start import check_folders, start

NOTE = "all.json"

Tune = Callable[[Path, Data, float | None], None]
"""Chooses the sampling's settings of a model folder, on data, in so many seconds, and writes them
there."""


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

    def run_flag(self, stage: str = "") -> str:
        """What finds the run again, of all stages or of one, where it is not where it would be."""
        run = self.run / stage
        return "" if run == run_folder(self.model, stage) else f" {flag('--run', run)}"

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
    outlook = Outlook.of(asked)
    takes = measured(outlook.recipes, place.device)
    print("\n".join(described(outlook, takes)), flush=True)
    step = {name: one.seconds for name, one in takes.items() if one.seconds is not None}
    progress = Progress(asked, takes["clip"].images, step, overwrite=overwrite)
    place.run.mkdir(parents=True, exist_ok=True)
    with held(place.run):
        for name in STAGES:  # another process may have trained while this one measured
            check_folders(SPECS[name], place.folders(name, overwrite=overwrite))
        sign(place.run, "all", place.model)
        if overwrite:
            _drop_upsamplers(ModelFolder(place.model), outlook.recipes)
        return _Whole(progress, place, outlook).run(tune)


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
    if data is not None and not _same(data, asked.data.source):
        raise ValueError(
            f"{place.run} was begun with the data {printable(asked.data.source)}: leave --data "
            "out to go on with it, or add --overwrite in --resume's place"
        )
    outlook = Outlook.of(asked)
    _check_there(place, progress)
    if budget is not None:
        if set(outlook.recipes) <= set(progress.done):
            raise ValueError(
                f"all stages of {printable(str(place.model))} are trained; to train one of them "
                f"further: unclip train decoder {flag('--model', place.model)}"
                f"{place.run_flag('decoder')} --resume --training.steps N"
            )
        under_way = [name for name in progress.given if name not in progress.done]
        progress = progress.within(budget)
        for name in under_way:
            progress = progress.begun(name, outlook.recipes, place.made(name))
    with held(place.run):
        return _Whole(progress, place, outlook).run(tune)


def _same(data: str, other: str) -> bool:
    """Whether two names of data are one: as they stand, or as paths of one folder."""
    paths = Path(data), Path(other)
    return data == other or (all(path.exists() for path in paths) and paths[0].samefile(paths[1]))


def _check_there(place: Place, progress: Progress) -> None:
    """Refuse to go on beside a model that lacks what was trained into it.

    Raises:
        ValueError: what is missing.
    """
    folder = ModelFolder(place.model)
    for name in progress.done:
        for component in SPECS[name].components if name in SPECS else ():
            if not (folder.is_written() and folder.has(component)):
                raise ValueError(
                    f"{printable(str(place.model))} has no {component}, which the run in "
                    f"{place.run} wrote: put it back, or train anew with --overwrite in "
                    "--resume's place"
                )


def _drop_upsamplers(folder: ModelFolder, recipes: Recipes) -> None:
    """Take another model's upsamplers away where none is trained in their place: they would enlarge
    by what that one had learned."""
    if "upsampler" in recipes or not folder.is_written():
        return
    upsamplers = {*SPECS["upsampler"].components, *SPECS["upsampler-1024"].components}
    gone = [name for name in sorted(upsamplers) if folder.has(name)]
    with folder.publishing():
        for name in gone:
            folder.remove(name)
    if gone:
        print(
            f"{', '.join(gone)} of {printable(str(folder.path))}: removed, as nothing is enlarged"
        )


class _Whole:
    """All stages under way."""

    def __init__(self, progress: Progress, place: Place, outlook: Outlook) -> None:
        self.place, self.outlook, self.recipes = place, outlook, outlook.recipes
        self._note(progress)

    def run(self, tune: Tune | None) -> int:
        """All that is not done yet, in its order; 0, or the signal that stopped it."""
        work: dict[str, Callable[[], int]] = {
            name: partial(self._train, name) for name in self.recipes
        }
        if tune is not None and self.outlook.tunes:
            work["tune"] = partial(self._tune, tune)
        if set(work) <= set(self.progress.done):
            print("nothing is left to train", flush=True)
        for number, (name, one) in enumerate(work.items(), 1):
            if name in self.progress.done:
                continue
            self.title = f"[{number}/{len(work)}] {name}"
            try:
                stopped = one()
            except KeyboardInterrupt:  # while data is read or a stage is built
                stopped = signal.SIGINT
            if stopped:
                again = f"unclip train all {flag('--model', self.place.model)}"
                again += f"{self.place.run_flag()} --resume"
                said = signal.Signals(stopped).name
                print(f"{self.title}: stopped by {said}; to go on: {again}", flush=True)
                return stopped
            self._note(replace(self.progress, done=(*self.progress.done, name)))
            left = self.progress.left
            rest = "" if left is None else f"; {duration(max(left, 0))} left"
            print(f"{self.title} took {duration(self.progress.took[name])}{rest}", flush=True)
        caption = shlex.quote(printable(self.outlook.caption))
        model = flag("--model", self.place.model)
        print(f"to draw with it: unclip generate {caption} {model}", flush=True)
        return 0

    def _train(self, name: str) -> int:
        """One stage, lap after lap, from where it is."""
        if name not in self.progress.given:
            self._make_way(name)
            self._note(self.progress.begun(name, self.recipes))
        budgeted = name in self.progress.steps
        laps = laps_of(self.progress.given[name]) if budgeted else (1.0,)
        # Another budget may have made a stage of several laps one of one.
        for part in laps[min(self.progress.laps.get(name, 0), len(laps) - 1) :]:
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

    def _make_way(self, name: str) -> None:
        """Delete an earlier training's run, with --overwrite; refuse another process's."""
        run = self.place.run / name
        run.mkdir(parents=True, exist_ok=True)
        with held(run):
            overwrite = self.progress.overwrite
            check_folders(SPECS[name], self.place.folders(name, overwrite=overwrite))
            forget(run)

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
        seconds = tuning_seconds(budget, sum(self.progress.took.values()))
        if left is not None:
            seconds = min(max(left, seconds), 2 * seconds)
        print(f"{self.title}: how the model is sampled, by held-out captions", flush=True)
        begun = time.monotonic()
        try:
            tune(self.place.model, self.progress.asked.data, seconds)
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
