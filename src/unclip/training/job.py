"""From a recipe to a job: data is opened and checked, and the stage built."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from unclip.batch import on_device
from unclip.checks import many, printable
from unclip.data import trained_on
from unclip.data.captions import ENDLESS
from unclip.data.held_out import note, settled
from unclip.data.registry import HELD_OUT, format_of
from unclip.data.sources import Source, Stream, first_captions, length
from unclip.stages import suiting
from unclip.stages.base import Stage
from unclip.stages.conditioning import CLIP_COMPONENTS, FrozenCLIP
from unclip.stages.recipe import Recipe, open_data
from unclip.stages.spec import BuildContext, StageSpec
from unclip.storage.folder import ModelFolder
from unclip.storage.hub import resolve_model
from unclip.training.budget import check_images, parameters_within_memory
from unclip.training.data import (
    TrainingData,
    batches_of,
    check_division,
    first_images,
    say_what_is_cut,
    say_what_is_unknown,
)
from unclip.training.embedded import of_size, precomputed
from unclip.training.loggers import check_loggers
from unclip.training.parallel import Parallel
from unclip.training.validation import interval, said, validation_of

S = TypeVar("S")
_MEASURED = 2  # times that an image is looked at, at most, to measure statistics


@dataclass(frozen=True)
class Folders:
    """Folders of a run, and how it relates to what is there already."""

    model: Path
    run: Path
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Job:
    """One run of one stage: what is trained, on what, how, and where it goes.

    Args:
        name: of the stage, as `unclip train` says it.
        recipe: everything that decides the run.
        folders: where it goes, and whether it goes on.
        stage: with its network, fresh or warm.
        data: what it learns from.
        parallel: this process among the others.
        learned_from: fingerprints of components of the model folder, by name, that must stay the
            same while the run lasts and when it is resumed.
    """

    name: str
    recipe: Recipe[Any]
    folders: Folders
    stage: Stage
    data: TrainingData
    parallel: Parallel
    learned_from: Mapping[str, str] = field(default_factory=dict)

    @property
    def reported(self) -> Path | None:
        """Where metrics and pictures go; None in all processes but the main one."""
        return self.folders.run if self.parallel.main else None

    def publish(self, anew: bool = True) -> None:
        """Write the stage's weights, as they are now, into the model folder, all together.

        Args:
            anew: whether it is the first time that this run does, see `suiting.note`.
        """
        folder, data = ModelFolder(self.folders.model), self.recipe.data
        with folder.publishing(learned_from=self.learned_from):
            self.stage.save(folder)
            suiting.note(folder, self.stage, anew)
            itself = not data.by_fraction and format_of(data.source).holds_out == "itself"
            note(folder, self.name, None if itself else data.fraction)
            name = data.embeddings if data.embeddings_alone else data.source
            trained_on.note(folder, self.name, name, {"emoji": data.world})


def build_job(
    spec: StageSpec[S],
    recipe: Recipe[S],
    folders: Folders,
    parallel: Parallel,
    reports: bool = True,
) -> Job:
    """Open and check the data, and build the stage, from the recipe's seed.

    Args:
        reports: whether the data's report is printed, and what a resumed run is validated on.
    """
    check_loggers(recipe.training.loggers)
    recipe = _decided(spec, recipe, folders)
    accumulation = recipe.training.accumulation
    check_division(recipe.training, parallel.world_size)
    check_images(
        recipe.training.batch_size // (accumulation * parallel.world_size), recipe.data.size
    )
    stored = precomputed(spec, recipe)
    source: Source | Stream
    if stored is not None:
        source = stored.source
    else:
        source = spec.source(recipe) if spec.source else open_data(recipe.data)
    check_processes(parallel.world_size, length(source))
    report = source.check()
    if parallel.main and reports:
        print(report, flush=True)
        if stored is not None:
            print(stored.line, flush=True)
    folder = ModelFolder(folders.model)
    context = BuildContext(
        folder=folder,
        source=source,
        data=recipe.data,
        device=parallel.device,
        captions=lambda n: first_captions(source, n),
        batches=lambda: (
            on_device(one, parallel.device)
            for one in islice(batches_of(source, recipe, 0), _enough(source, recipe))
        ),
        replicas=parallel,
        embeddings=stored.embeddings if stored else None,
    )
    torch.manual_seed(recipe.training.seed)
    with parameters_within_memory(parallel.device):
        stage = build(spec, recipe, context, folders.resume)
    if parallel.main:
        say_what_is_unknown(stage, source)
        say_what_is_cut(stage, source, fresh=spec.name == "clip" and not recipe.training.init)
    validation = validation_of(source, recipe, parallel)
    told = reports or not folders.resume
    if parallel.main and told and (line := said(validation, source, recipe)):
        print(line, flush=True)
    fingerprints = [source.fingerprint()]
    if spec.teacher:
        fingerprints.append(folder.fingerprint(*spec.teacher))
    data = TrainingData(
        lambda step: batches_of(source, recipe, step * accumulation, parallel),
        first_images(source, recipe),
        " ".join(fingerprints),
        length(source) if length(source) < ENDLESS else 0,
        validation,
    )
    clip = clip_of(stage)
    learned_from = clip.fingerprints() if clip else {}
    return Job(spec.name, _as_it_is(recipe, stage), folders, stage, data, parallel, learned_from)


def _enough(source: Source | Stream, recipe: Recipe[Any]) -> int | None:
    """Batches that show every image `_MEASURED` times; None of data that has no end."""
    images = length(source)
    part = recipe.training.batch_size // recipe.training.accumulation
    return None if images >= ENDLESS else -(-_MEASURED * images // part)


def check_processes(processes: int, samples: int) -> None:
    """Refuse more processes than there are samples: some would have nothing of their own."""
    if processes > samples:
        raise ValueError(
            f"{processes:,} processes were started, but there are {many(samples, 'images')}: start "
            f"{samples:,} or fewer"
        )


def _decided(spec: StageSpec[S], recipe: Recipe[S], folders: Folders) -> Recipe[S]:
    """The recipe with what it leaves to the model folder, to the data or to the length of the run.

    A run that is resumed goes on as it began.
    """
    data, training, stage = of_size(spec, recipe.data), recipe.training, spec.name
    if data.by_fraction and not (folders.resume and data.held_out is not None):
        held_out = settled(ModelFolder(folders.model), stage, data.held_out, HELD_OUT)
        data = replace(data, held_out=held_out)
    return replace(recipe, data=data, training=replace(training, validate_every=interval(training)))


def _as_it_is(recipe: Recipe[S], stage: Stage) -> Recipe[S]:
    """The recipe with the sizes of another model's networks, where the stage starts from them."""
    settings = getattr(stage, "settings", None)
    if recipe.training.init and isinstance(settings, type(recipe.network)):
        return replace(recipe, network=settings)
    return recipe


def clip_of(stage: Stage) -> FrozenCLIP | None:
    """The CLIP that a stage is conditioned on, if it is."""
    clip = getattr(stage, "clip", None)
    return clip if isinstance(clip, FrozenCLIP) else None


def build(spec: StageSpec[S], recipe: Recipe[S], context: BuildContext, resume: bool) -> Stage:
    """A fresh stage, or one with the weights of the model that `training.init` names.

    A run that is resumed has written those networks itself, and that model may be gone.
    """
    init = recipe.training.init
    if not init:
        return spec.build(recipe.network, context)
    if spec.warm_start is None:
        raise ValueError(f"a {spec.name} cannot start from another model; leave training.init out")
    if resume and all(context.folder.has(name) for name in spec.components):
        return spec.warm_start(recipe.network, context, context.folder)
    wanted = (
        *spec.components, *spec.optional, *spec.warm_start_components, *CLIP_COMPONENTS
    )  # fmt: skip
    origin = ModelFolder(resolve_model(init, None, None, wanted))
    if not any(map(origin.has, wanted)):
        raise ValueError(
            f"{printable(init)} is not a model folder, or holds nothing of {spec.name}; "
            "training.init is bundled, a model folder or hf:owner/model"
        )
    return spec.warm_start(recipe.network, context, origin)
