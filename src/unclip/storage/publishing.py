"""What is published into a model folder together is seen together, whenever its writer is killed.

A publication is written into a private folder inside the model folder first:

    new/NAME           components, as they will be
    model_index.json   the index, as it will be
    old/               empty

One rename, to `.publishing`, decides: from then on it is what the folder holds. What remains is to
take the index away, so that programs that know nothing of this see no model rather than half of
one, to move the old components to `old/` and the new ones to their names, and to put the new index
in place. All of that are renames, and whoever opens the folder next completes them.
"""

import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

from unclip.checks import shown
from unclip.files import read_json, write_json

INDEX = "model_index.json"
NEW = "new"
_OLD = "old"
_PENDING = ".publishing"
_NAME = re.compile(r"(?!\.)[\w.-]{1,100}")


def commit(folder: Path, private: Path, index: dict[str, Any]) -> None:
    """Publish the components in `private/new`, and `index` for the whole folder.

    Components that the index does not name any more are taken away. The caller holds the folder,
    and removes `private`, which holds the old components then.

    Raises:
        ValueError: the folder cannot be written. Either nothing has changed, or who opens it next
            completes what was begun.
    """
    (private / NEW).mkdir(exist_ok=True)
    (private / _OLD).mkdir()
    write_json(private / INDEX, index)
    try:
        private.rename(folder / _PENDING)
        _move(folder)
        (folder / _PENDING).rename(private)
    except OSError as error:
        raise ValueError(f"cannot write the model {folder}: {error.strerror}") from None


def is_pending(folder: Path) -> bool:
    """Whether the folder was being replaced when its writer was killed."""
    return os.path.lexists(folder / _PENDING)


def complete(folder: Path) -> None:
    """Finish what a killed writer had decided to publish; the caller holds the folder.

    Raises:
        ValueError: it was another user's, or the folder cannot be written.
    """
    if not is_pending(folder):
        return
    problem = f"{folder} was being replaced when its writer was killed, and cannot be completed"
    if not _is_own(folder / _PENDING):
        raise ValueError(
            f"{problem} by another user: open it once as the user who trained it, or remove "
            f"{folder / _PENDING}"
        )
    try:
        _move(folder)
        shutil.rmtree(folder / _PENDING)
    except OSError as error:
        raise ValueError(
            f"{problem} here ({error.strerror}): open it once where it can be written"
        ) from None


def _is_own(pending: Path) -> bool:
    """Whether it is a folder that only this user can have filled: others could plant links."""
    found = pending.lstat()
    mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return stat.S_ISDIR(found.st_mode) and mine and not stat.S_IMODE(found.st_mode) & 0o022


def _move(folder: Path) -> None:
    """The renames, from wherever they were interrupted."""
    pending = folder / _PENDING
    old, index = pending / _OLD, pending / INDEX
    if not index.is_file():  # the last of them is done
        return
    if (folder / INDEX).is_file():
        (folder / INDEX).replace(old / INDEX)
    for fresh in sorted((pending / NEW).iterdir()):
        _set_aside(folder / fresh.name, old)
        fresh.rename(folder / fresh.name)
    before = read_json(old / INDEX) if (old / INDEX).is_file() else {}
    for name in before.keys() - read_json(index).keys():
        if not name.startswith("_"):
            _set_aside(folder / check_name(name, folder), old)
    index.replace(folder / INDEX)


def _set_aside(target: Path, old: Path) -> None:
    if os.path.lexists(target):
        target.rename(old / target.name)


def check_name(name: str, folder: Path) -> str:
    """A component's name, if it is that of a folder inside the model folder."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{folder / INDEX} names a component {shown(name)}, which can be no folder in it"
        )
    return name
