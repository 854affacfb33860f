"""From a recipe to a run: data is opened and checked, the stage built, the loop started."""

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from unclip.batch import Batch, on_device
from unclip.checks import shown
from unclip.config import dump_toml, from_mapping, merge, read_toml, to_mapping
from unclip.data.batches import Order, batches
from unclip.data.held_out import note
from unclip.data.sources import Source, open_source
from unclip.files import write_text
from unclip.stages.base import Stage
from unclip.stages.clip import ClipStage
from unclip.stages.conditioning import CLIP_COMPONENTS, FrozenCLIP
from unclip.storage.belonging import dependents
from unclip.storage.folder import ModelFolder
from unclip.storage.hub import resolve_model
from unclip.training.budget import check_images, parameters_within_memory
from unclip.training.distribution import Processes, start_processes
from unclip.training.loop import train
from unclip.training.recipe import Data, Optimiser, Training
from unclip.training.run import RECIPE, check_owner, forget, held, is_held, owner, sign

S = TypeVar("S")
_COUNTED = 1000  # captions of the built-in world that are looked at for their length


@dataclass(frozen=True)
class Recipe(Generic[S]):
    """Everything that decides a run of one stage."""

    network: S
    data: Data
    training: Training
    optimiser: Optimiser


@dataclass(frozen=True)
class Materials:
    """What a stage may look at when it is built."""

    folder: ModelFolder
    source: Source
    data: Data
    device: torch.device
    captions: Callable[[int], list[str]]  # the first n captions
    batches: Callable[[], Iterator[Batch]]  # batches of the training data, from the first


@dataclass(frozen=True)
class StageSpec(Generic[S]):
    """How `unclip train NAME` builds a stage."""

    name: str
    recipe: Recipe[S]  # the defaults
    components: tuple[str, ...]  # what it writes into the model folder
    build: Callable[[S, Materials], Stage]
    # The same with the networks of another model, for `training.init`.
    adopt: Callable[[S, Materials, ModelFolder], Stage] | None = None
    adopts: tuple[str, ...] = ()  # components that `adopt` may read beside its own and CLIP's
    teacher: tuple[str, ...] = ()  # components that the whole run learns from
    # Data with more than images and captions; else `open_data`.
    source: Callable[[Recipe[S]], Source] | None = None


@dataclass(frozen=True)
class Where:
    """Folders of a run, and how it relates to what is there already."""

    model: Path
    run: Path
    resume: bool = False
    overwrite: bool = False


def resolve(spec: StageSpec[S], recipe_file: Path | None) -> Recipe[S]:
    """The stage's defaults with a recipe file over them."""
    if recipe_file is None:
        return spec.recipe
    mapping = read_toml(recipe_file)
    stage = mapping.pop("stage", spec.name)
    if stage != spec.name:
        raise ValueError(f"{recipe_file} is a recipe for {shown(stage)}, not for {spec.name!r}")
    return read(spec, mapping, str(recipe_file))


def read(spec: StageSpec[S], mapping: dict[str, Any], where: str) -> Recipe[S]:
    """A recipe from a mapping; keys left out keep the stage's defaults."""
    known = {"network", "data", "training", "optimiser"}
    for key in mapping:
        if key not in known:
            raise ValueError(f"{where}: unknown table {key!r}; known: {', '.join(sorted(known))}")
    merged = merge(to_mapping(spec.recipe), mapping)
    return Recipe(
        from_mapping(type(spec.recipe.network), merged["network"], f"{where}: network"),
        from_mapping(Data, merged["data"], f"{where}: data"),
        from_mapping(Training, merged["training"], f"{where}: training"),
        from_mapping(Optimiser, merged["optimiser"], f"{where}: optimiser"),
    )


def open_data(data: Data, split: str = "train") -> Source:
    """The recipe's data source."""
    if not data.is_world:
        return open_source(data.source, size=data.size, split=split, held_out=data.held_out)
    given = ("size", "seed", "split", *(["kinds"] if ":" in data.source else []))
    world = {key: value for key, value in to_mapping(data.world).items() if key not in given}
    return open_source(data.source, size=data.size, seed=data.world.seed, split=split, world=world)


@dataclass(frozen=True)
class Prepared:
    """A stage that is ready to train, and its data."""

    stage: Stage
    batches: Callable[[int], Generator[Batch, None, None]]  # from this step on
    example: Batch  # captioned images for previews
    data: str  # fingerprint of the data, and of a teacher


def prepare(spec: StageSpec[S], recipe: Recipe[S], where: Where, processes: Processes) -> Prepared:
    """Open and check the data, and build the stage, from the recipe's seed."""
    together = recipe.training.accumulation * processes.world_size
    check_images(recipe.training.batch_size // together, recipe.data.size)
    source = spec.source(recipe) if spec.source else open_data(recipe.data)
    report = source.check()
    if processes.main:
        print(report, flush=True)
    alone = Processes(0, 1, processes.device)
    materials = Materials(
        ModelFolder(where.model),
        source,
        recipe.data,
        processes.device,
        lambda n: [source.caption(i) for i in range(min(n, len(source)))],
        lambda: (on_device(one, alone.device) for one in _batches(source, recipe, 0, alone)),
    )
    torch.manual_seed(recipe.training.seed)
    with parameters_within_memory(processes.device):
        stage = _stage(spec, recipe, materials, where.resume)
    if processes.main:
        _say_what_is_cut(stage, source, fresh=spec.name == "clip" and not recipe.training.init)
    # The first images alone, without workers: a whole batch can take long to draw.
    size = min(8, recipe.training.batch_size // recipe.training.accumulation)
    with contextlib.closing(batches(source, Order.of(source, recipe.training.seed), size)) as few:
        example = dict(next(few))
    parts = recipe.training.accumulation
    learned_from = [source.fingerprint()]
    if spec.teacher:
        learned_from.append(materials.folder.fingerprint(*spec.teacher))
    return Prepared(
        stage,
        lambda step: _batches(source, recipe, step * parts, processes),
        example,
        " ".join(learned_from),
    )


def _say_what_is_cut(stage: Stage, source: Source, fresh: bool) -> None:
    """Captions of which the stage reads only the beginning, the last lines of the data's report."""
    reader = stage if isinstance(stage, ClipStage) else getattr(stage, "clip", None)
    if not isinstance(reader, ClipStage | FrozenCLIP):
        return
    read = list(islice(source.captions(), _COUNTED if source.endless else 20 * _COUNTED))
    cut, length = reader.tokenizer.too_long(read), reader.tokenizer.context_length
    if cut:
        larger = "a larger" if fresh else "a CLIP that is trained anew with a larger"
        print(
            f"  cut: {cut:,} of {len(read):,} captions have more than the {length} tokens that "
            f"CLIP reads; {larger} --network.context-length reads more",
            flush=True,
        )


def _stage(spec: StageSpec[S], recipe: Recipe[S], materials: Materials, resume: bool) -> Stage:
    """A fresh stage, or one with the weights of the model that `training.init` names.

    A run that is resumed has written those networks itself, and that model may be gone.
    """
    init = recipe.training.init
    if not init:
        return spec.build(recipe.network, materials)
    if spec.adopt is None:
        raise ValueError(f"a {spec.name} cannot start from another model; leave training.init out")
    if resume and all(materials.folder.has(name) for name in spec.components):
        return spec.adopt(recipe.network, materials, materials.folder)
    wanted = (*spec.components, *spec.adopts, *CLIP_COMPONENTS)
    origin = ModelFolder(resolve_model(init, None, None, wanted))
    return spec.adopt(recipe.network, materials, origin)


def start(spec: StageSpec[S], recipe: Recipe[S], where: Where, device: str = "auto") -> int:
    """Train a stage into a model folder.

    Returns:
        0, or the number of the signal that stopped the run.

    Raises:
        ValueError: anything about data, recipe or folders that stands in the way.
    """
    processes = start_processes(device)
    folder = ModelFolder(where.model)
    with contextlib.ExitStack() as hold:
        # A new folder is made, and then held, once nothing stands in the way.
        early = processes.main and is_held(where.run)
        if early:
            hold.enter_context(held(where.run))
        _check_folders(spec, folder, where)
        prepared = prepare(spec, recipe, where, processes)
        clip = getattr(prepared.stage, "clip", None)
        clip = clip if isinstance(clip, FrozenCLIP) else None
        learned_from = clip.fingerprints() if clip else {}

        def begin() -> None:
            if not processes.main:
                return
            where.run.mkdir(parents=True, exist_ok=True)
            if not early:
                hold.enter_context(held(where.run))
                _check_folders(spec, folder, where)
            if where.overwrite and not where.resume:
                forget(where.run)
            sign(where.run, spec.name, where.model)
            text = dump_toml({"stage": spec.name, **to_mapping(recipe)})
            write_text(where.run / RECIPE, text + "\n")
            if clip and not folder.has("text_encoder"):
                clip.save(folder)  # that of `training.init`, to which the stage belongs
            _say_what_will_not_fit(spec, folder)

        def publish() -> None:
            with folder.publishing(learned_from=learned_from):
                prepared.stage.save(folder)
                note(folder, spec.name, None if recipe.data.is_world else recipe.data.held_out)

        return train(
            prepared.stage,
            recipe.training,
            recipe.optimiser,
            prepared.batches,
            where.run,
            processes,
            publish=publish,
            example=prepared.example,
            resume=where.resume,
            data=prepared.data,
            learned_from=learned_from,
            begin=begin,
        )


def _say_what_will_not_fit(spec: StageSpec[S], folder: ModelFolder) -> None:
    """Parts of the model that were trained with what this run replaces."""
    if not any(folder.has(name) for name in spec.components):
        return
    others = [name for name in dependents(folder.index(), spec.components) if folder.has(name)]
    if others:
        print(
            f"{', '.join(others)} of {folder.path} will not fit what this run makes: train "
            f"{'it' if len(others) == 1 else 'them'} anew afterwards",
            flush=True,
        )


def _batches(
    source: Source, recipe: Recipe[S], first: int, processes: Processes
) -> Generator[Batch, None, None]:
    size = recipe.training.batch_size // recipe.training.accumulation
    order = Order.of(source, recipe.training.seed)
    # More than a few for each core only cost memory; batches are the same for any number.
    workers = min(recipe.data.workers, 4 * (os.cpu_count() or 1))
    return batches(source, order, size, first, processes.rank, processes.world_size, workers)


def _check_folders(spec: StageSpec[S], folder: ModelFolder, where: Where) -> None:
    """Refuse to overwrite a component or a run that nobody said should go, or another's run."""
    check_owner(where.run, spec.name, where.model, where.resume)
    if where.resume or where.overwrite:
        return
    there = [name for name in spec.components if folder.has(name)]
    checkpoints = where.run / "checkpoints"
    if there:
        raise ValueError(
            f"{folder.path} already has a {there[0]}; add --overwrite to train it anew, "
            "or --resume to continue its run"
        )
    if checkpoints.is_dir() and any(checkpoints.iterdir()):
        or_else = "--overwrite to start again"
        if owner(where.run) is None:  # it may be another model's
            or_else = "give this one a folder of its own with --run"
        raise ValueError(
            f"{where.run} holds an unfinished run; add --resume to continue it, or {or_else}"
        )
