"""The start of a run: its folders are looked at and held, the job built, the loop started."""

import contextlib
from typing import TypeVar

from unclip.config import dump_toml, to_mapping
from unclip.files import write_text
from unclip.stages.borrowing import students_of
from unclip.stages.recipe import Recipe
from unclip.stages.spec import StageSpec
from unclip.storage.belonging import dependents
from unclip.storage.folder import ModelFolder
from unclip.training.job import Folders, Job, build_job, clip_of
from unclip.training.loop import Trainer
from unclip.training.parallel import others_needed, start_parallel
from unclip.training.run import RECIPE, check_owner, forget, held, is_held, owner, sign

S = TypeVar("S")


def start(
    spec: StageSpec[S],
    recipe: Recipe[S],
    folders: Folders,
    device: str = "auto",
    until: int | None = None,
    reports: bool = True,
) -> int:
    """Train a stage into a model folder.

    Args:
        until: a step to end at before the recipe's last.
        reports: see `build_job`.

    Returns:
        0, or the number of the signal that stopped the run.

    Raises:
        ValueError: anything about data, recipe or folders that stands in the way.
    """
    with others_needed(), contextlib.ExitStack() as hold:
        parallel = start_parallel(device, recipe.training.shard)
        # A new folder is made, and then held, once nothing stands in the way.
        early = parallel.main and is_held(folders.run)
        if early:
            hold.enter_context(held(folders.run))
        check_folders(spec, folders)
        job = build_job(spec, recipe, folders, parallel, reports)
        repeats = job.data.repeats(recipe.training.batch_size)
        if repeats and parallel.main:
            print(repeats, flush=True)
        trainer = Trainer(job)
        parallel.barrier()  # all have looked at the folders before one writes into them
        if parallel.main:
            folders.run.mkdir(parents=True, exist_ok=True)
            if not early:
                hold.enter_context(held(folders.run))
                check_folders(spec, folders)
            _claim(job)
            if reports:
                _say_what_will_not_fit(spec, ModelFolder(folders.model))
        return trainer.run(until)


def _claim(job: Job) -> None:
    """Make the run's folder this job's, and give the model folder the CLIP that it needs."""
    run, model = job.folders.run, ModelFolder(job.folders.model)
    if job.folders.overwrite and not job.folders.resume:
        forget(run)
    sign(run, job.name, job.folders.model)
    write_text(run / RECIPE, dump_toml({"stage": job.name, **to_mapping(job.recipe)}) + "\n")
    clip = clip_of(job.stage)
    if clip and not model.has("text_encoder"):
        clip.save(model)  # that of `training.init`, to which the stage belongs


def check_folders(spec: StageSpec[S], folders: Folders) -> None:
    """Refuse to overwrite a component or a run that nobody said should go, or another's run."""
    folder = ModelFolder(folders.model)
    check_owner(folders.run, spec.name, folders.model, folders.resume)
    if folders.resume or folders.overwrite:
        return
    there = [name for name in spec.components if folder.has(name)]
    checkpoints = folders.run / "checkpoints"
    if there:
        raise ValueError(
            f"{folder.path} already has a {there[0]}; add --overwrite to train it anew, "
            "or --resume to continue its run"
        )
    if checkpoints.is_dir() and any(checkpoints.iterdir()):
        or_else = "--overwrite to start again"
        if owner(folders.run) is None:  # it may be another model's
            or_else = "give this one a folder of its own with --run"
        raise ValueError(
            f"{folders.run} holds an unfinished run; add --resume to continue it, or {or_else}"
        )


def _say_what_will_not_fit(spec: StageSpec[S], folder: ModelFolder) -> None:
    """Parts of the model that were trained with what this run replaces."""
    if not any(folder.has(name) for name in spec.components):
        return
    gone = list(dict.fromkeys(name for name in students_of(spec) if folder.has(name)))
    others = [
        name
        for name in dependents(folder.index(), tuple(spec.components))
        if folder.has(name) and name not in gone
    ]
    if gone:
        print(
            f"the student in {folder.path} ({', '.join(gone)}) learned from what this run replaces "
            "and is removed: presets ask what was trained, until a student is trained anew",
            flush=True,
        )
    if others:
        print(
            f"{', '.join(others)} of {folder.path} will not fit what this run makes: train "
            f"{'it' if len(others) == 1 else 'them'} anew afterwards",
            flush=True,
        )
