"""Where a command's files go. The place is looked at before the work; what is there is kept.

In a folder, names are unclip's own: a file gets the next name that is free. A file that was named
gets that name, and what had it before moves to the next free one beside it. Equal files stay one:
the same request again changes nothing.
"""

import filecmp
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip import __version__
from unclip.files import alone, check_utf8, whole
from unclip.interfaces.cli.options import made_on

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

_MOST_PIXELS = 100_000_000  # those of a sheet, which is drawn in memory


def is_file(output: Path) -> bool:
    """Whether `--output` names a file rather than a folder."""
    return bool(output.suffix) and not output.is_dir()


def check_output(output: Path) -> None:
    """Find out before the work, not after it, whether images can be written there."""
    if not is_file(output):
        check_folder(output)
    elif output.suffix.lower() != ".png":
        raise ValueError(f"{output} does not end in .png; images are written as PNG only")
    else:
        check_file(output, ".png")


def check_file(file: Path, *endings: str) -> None:
    """Find out before the work whether a file of this name can be written; any ending if none."""
    if endings and file.suffix.lower() not in endings:
        raise ValueError(f"{file} does not end in {' or '.join(endings)}")
    if file.suffix.lower() == ".safetensors":
        check_utf8(file)
    if file.is_dir():
        raise ValueError(f"{file} is a folder; give the name of a file")
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} is no regular file; give another name")
    check_folder(file.parent)


def check_sheet(output: Path, rows: int, columns: int, size: int) -> None:
    """Refuse, before any work, a sheet of images of `size` pixels that cannot be drawn or written.

    Raises:
        ValueError: it is no .png file, or too large.
    """
    if output.suffix.lower() != ".png":
        raise ValueError(f"{output} does not end in .png; give a .png file")
    pixels = rows * columns * size**2
    if pixels > _MOST_PIXELS:
        raise ValueError(f"the sheet would have {pixels:,} pixels; {_MOST_PIXELS:,} is the limit")
    check_output(output)


def check_folder(folder: Path) -> None:
    """Refuse a folder that nothing can be written into, or that cannot be made."""
    whole_path = folder.absolute()
    places = (whole_path, *whole_path.parents)
    there = next(place for place in places if os.path.lexists(place))
    if not there.exists():
        raise ValueError(f"cannot write into the folder {folder}: {there} is a link to nothing")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into the folder {folder}: {error.strerror}") from None


def write_file(file: Path, save: Callable[[Path], Any]) -> str:
    """Have `save` write a file under the name that was asked for; what has it moves out of the way.

    Returns:
        What to tell the user: the name, and where the earlier file is.
    """
    told = str(file)

    def put(partial: Path, file: Path) -> None:
        nonlocal told
        with alone(file.parent):
            if os.path.lexists(file) and not _same(partial, file):
                earlier = next(name for name in numbered(file) if not os.path.lexists(name))
                file.rename(earlier)
                told += f" (what was there is {earlier} now)"
            partial.replace(file)

    _write(file, save, put)
    return told


def write_beside(names: Iterable[Path], save: Callable[[Path], Any]) -> Path:
    """Have `save` write a file under the first of endless names that is free, or has the same in
    it already; returns that name."""
    every = iter(names)
    placed = next(every)

    def put(partial: Path, first: Path) -> None:
        nonlocal placed
        with alone(first.parent):  # or another command could take the name meanwhile
            placed = next(
                name
                for name in chain([first], every)
                if not os.path.lexists(name) or _same(partial, name)
            )
            partial.replace(placed)

    _write(placed, save, put)
    return placed


def write_image(output: Path, name: str, save: Callable[[Path], Any]) -> str:
    """Have `save` write one image: the file that was asked for, else a free name in the folder.

    Returns:
        What to tell the user.
    """
    if is_file(output):
        return write_file(output, save)
    file = output / name
    return str(write_beside(chain([file], numbered(file)), save))


def numbered(file: Path, first: int = 1) -> Iterator[Path]:
    """`file-1.png`, `file-2.png` and so on for `file.png`."""
    return (file.with_name(f"{file.stem}-{i}{file.suffix}") for i in count(first))


def written_by(model: str | None, pipe: "Pipeline", command: Sequence[str] = ()) -> dict[str, Any]:
    """What the notes of images say of the program, the machine and the model.

    A model on the Hub is noted with its commit, also in the command that makes the image again.

    Args:
        model: as `--model` named it.
        command: the words of the command line, for images that were made from others.
    """
    notes: dict[str, Any] = {"model": model, "machine": made_on(pipe), "version": __version__}
    if command:
        notes["command"] = [command[0], *_at_commit(pipe.revision, command[1:])]
    return notes


def _at_commit(commit: str, words: Sequence[str]) -> list[str]:
    """The flags with `--revision COMMIT`, instead of the branch or tag that was asked for."""
    if not commit:
        return list(words)
    kept, flags = [], True
    given = iter(words)
    for word in given:
        flags = flags and word != "--"
        if flags and word == "--revision":
            next(given, None)
        elif not (flags and word.startswith("--revision=")):
            kept.append(word)
    return ["--revision", commit, *kept]


def _write(file: Path, save: Callable[[Path], Any], put: Callable[[Path, Path], None]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {file}: {error.strerror}") from None
    with whole(file, put) as partial:
        try:
            save(partial)
        except ValueError as error:  # which names the place that nobody knows
            raise ValueError(str(error).replace(str(partial), str(file))) from None


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)
