"""What `unclip train NAME` knows of a stage: its recipe, its components, and how it is built."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from unclip.batch import Batch
from unclip.checks import shown
from unclip.config import from_mapping, merge, read_toml, to_mapping
from unclip.data.sources import Source, Stream
from unclip.stages.base import Replicas, Stage
from unclip.storage.folder import ModelFolder
from unclip.training.recipe import Data, Optimiser, Recipe, Training

S = TypeVar("S")


@dataclass(frozen=True)
class BuildContext:
    """What a stage may look at when it is built."""

    folder: ModelFolder
    source: Source | Stream
    data: Data
    device: torch.device
    captions: Callable[[int], list[str]]  # the first n captions
    batches: Callable[[], Iterator[Batch]]  # whole batches of the training data, from the first
    replicas: Replicas  # processes that share a batch


@dataclass(frozen=True)
class StageSpec(Generic[S]):
    """How `unclip train NAME` builds a stage."""

    name: str
    recipe: Recipe[S]  # the defaults
    components: tuple[str, ...]  # what it writes into the model folder
    build: Callable[[S, BuildContext], Stage]
    # The same with the networks of another model, for `training.init`.
    warm_start: Callable[[S, BuildContext, ModelFolder], Stage] | None = None
    warm_start_components: tuple[str, ...] = ()  # that it may read beside its own and CLIP's
    teacher: tuple[str, ...] = ()  # components that the whole run learns from
    # Data with more than images and captions; else `open_data`.
    source: Callable[[Recipe[S]], Source | Stream] | None = None


def load_recipe(spec: StageSpec[S], recipe_file: Path | None) -> Recipe[S]:
    """The stage's defaults with a recipe file over them."""
    if recipe_file is None:
        return spec.recipe
    mapping = read_toml(recipe_file)
    stage = mapping.pop("stage", spec.name)
    if stage != spec.name:
        raise ValueError(f"{recipe_file} is a recipe for {shown(stage)}, not for {spec.name!r}")
    return parse_recipe(spec, mapping, str(recipe_file))


def parse_recipe(spec: StageSpec[S], mapping: dict[str, Any], where: str) -> Recipe[S]:
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
