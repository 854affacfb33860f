"""What a stage was trained on, as the model folder notes it, where others can have the same: the
built-in world and other data that a name alone opens. The path of somebody's folder is not noted.
"""

from collections.abc import Mapping
from typing import Any

from unclip.checks import shown
from unclip.config import to_mapping
from unclip.data.registry import FORMATS, parse
from unclip.storage.folder import ModelFolder

NOTE = "_trained_on"  # in the index: stage → name of the data, and its options


def note(folder: ModelFolder, stage: str, name: str, options: Mapping[str, Any]) -> None:
    """Write into the model folder what a stage was trained on.

    Args:
        name, options: of the data, as `open_source` takes them.
    """
    kind = parse(name)[0]
    before = _noted(folder)
    noted = {key: said for key, said in before.items() if key != stage}
    if FORMATS[kind].alone:
        given = options.get(kind, {})
        given = dict(given) if isinstance(given, Mapping) else to_mapping(given)
        noted[stage] = {"data": name, "options": {kind: given}}
    if noted != before:
        folder.update_index({NOTE: noted})


def data_of(folder: ModelFolder, stages: tuple[str, ...]) -> tuple[str, dict[str, Any]] | None:
    """Name and options of the data that the first of these stages that says so was trained on.

    Raises:
        ValueError: the note is none that this version writes.
    """
    noted = _noted(folder)
    for stage in stages:
        if stage in noted:
            said = noted[stage]
            data, options = (said.get(key) for key in ("data", "options"))
            if not (isinstance(data, str) and isinstance(options, dict)):
                raise ValueError(f"{folder.path}: {NOTE} says of {shown(stage)} {shown(said)}")
            return data, options
    return None


def _noted(folder: ModelFolder) -> dict[str, Any]:
    there = folder.index().get(NOTE, {})
    if not (isinstance(there, dict) and all(isinstance(said, dict) for said in there.values())):
        raise ValueError(
            f"{folder.path}: {NOTE} is {shown(there)}; it must be an object of objects"
        )
    return dict(there)
