"""Stages that a model folder takes over from another model as they are, without training."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from unclip.checks import Notice, printable
from unclip.data.held_out import note, noted
from unclip.stages import suiting
from unclip.stages.catalogue import STAGES
from unclip.stages.spec import StageSpec
from unclip.storage.belonging import belongs_to, dependents, print_of
from unclip.storage.folder import ModelFolder


def borrow(
    stages: Sequence[str], folder: ModelFolder, origin: ModelFolder, overwrite: bool = False
) -> list[str]:
    """Copy what these stages of the other model have written, with their notes, all together.

    Args:
        stages: names of `unclip train`.
        overwrite: whether components that the folder has already are replaced.

    Returns:
        The components that were copied.

    Raises:
        ValueError: the other model lacks a stage; the folder has it already; what is copied does
            not fit, or was not trained with, what the folder has beside it.
    """
    specs = {name: STAGES[name] for name in stages}
    index = folder.index() if folder.is_written() else {}
    copied = [component for spec in specs.values() for component in components_of(spec, origin)]
    there = [component for component in copied if folder.has(component)]
    if there and not overwrite:
        raise ValueError(
            f"{folder.path} already has a {there[0]}; add --overwrite to put the other in its place"
        )
    for component in copied:
        _check_company(component, folder, origin, copied)
    strangers = [name for name in dependents(index, tuple(copied)) if there and folder.has(name)]
    if strangers:
        warnings.warn(
            f"{', '.join(strangers)} of {printable(str(folder.path))} will not fit what is copied: "
            f"train {'it' if len(strangers) == 1 else 'them'} anew",
            Notice,
            stacklevel=2,
        )
    with folder.publishing():
        folder.copy(origin, copied)
        for name, spec in specs.items():
            if spec.check_fit is not None:
                spec.check_fit(folder, origin)
            _replace_what_belongs(spec, folder, origin.index(), copied)
            note(folder, name, noted(origin, name))
            if spec.sampled_as:
                suiting.take(folder, origin.index(), spec.sampled_as)
    return copied


def components_of(spec: StageSpec[Any], origin: ModelFolder) -> list[str]:
    """What a stage has written into a model folder.

    Raises:
        ValueError: not all that it writes is there.
    """
    missing = [name for name in spec.components if not origin.has(name)]
    if missing:
        origin.index()  # says so where there is no model at all
        raise ValueError(f"{origin.path} has no {spec.name} to give: it lacks {missing[0]}")
    return [*spec.components, *(name for name in spec.optional if origin.has(name))]


def students_of(spec: StageSpec[Any]) -> list[str]:
    """Components that learned from what this stage writes, and go when that is replaced."""
    return [
        name
        for other in STAGES.values()
        if set(other.teacher) & set(spec.components)
        for name in other.components
    ]


def _replace_what_belongs(
    spec: StageSpec[Any], folder: ModelFolder, index: Mapping[str, Any], copied: Collection[str]
) -> None:
    """The other model's notes of a stage in place of the folder's, and nothing that was only of use
    with the stage before."""
    written = {key: index[key] for key in spec.notes if key in index}
    for name in (*spec.optional, *students_of(spec), *spec.notes):
        if name in folder.index() and name not in (*copied, *written):
            folder.remove(name)
    folder.update_index(written)


def _check_company(
    component: str, folder: ModelFolder, origin: ModelFolder, copied: Collection[str]
) -> None:
    """Refuse a component without what it was trained with."""
    for other in belongs_to(component, origin.index()):
        if other in copied:
            continue
        if not folder.has(other):
            raise ValueError(
                f"the {component} of {origin.path} is of use with its {other} only, which "
                f"{folder.path} does not have: borrow the stage that it is of as well"
            )
        if print_of(folder.component(other)) != print_of(origin.component(other)):
            raise ValueError(
                f"the {component} of {origin.path} is of use with its {other} only, and "
                f"{folder.path} has another: train it, beginning with that one's weights, by "
                "--training.init"
            )
