"""Files that are read with a limit, and written whole or not at all. Nothing pickled is read.

Only regular files are opened: a pipe or a device could keep a reader waiting for ever. What is
written is made in a fresh folder that nobody else may enter, so that no link planted under a
guessable name is followed, and then renamed into place.
"""

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from unclip.checks import printable, shown

if TYPE_CHECKING:
    from torch import Tensor

MAX_TEXT = 2**26
"""Bytes of the largest text, JSON or TOML file that is read; real ones are far below."""
MAX_CONFIG = 2**20
"""The same of a network's configuration."""
_PARTIAL = ".partial"
_REASON = 200  # characters of what a library says that a sentence repeats


def as_path(value: Any, name: str) -> Path:
    """`value`, text or a `Path`, as a path; nothing needs to be there.

    Raises:
        ValueError: it is something else, empty, or can be no file's name.
    """
    try:
        text = os.fspath(value)
    except TypeError:
        text = b""
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a path, not {type(value).__name__}")
    if not text:
        raise ValueError(f"{name} is empty; give a path")
    try:
        os.stat(text)
    except ValueError:  # a zero byte, or half a character
        raise ValueError(f"{name} {shown(text)} can be no file's name") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"{name} {shown(text)} is too long to be a file's name") from None
    return Path(text)


def check_utf8(path: Path) -> None:
    """Refuse a path that is not UTF-8: the safetensors library opens none.

    Raises:
        ValueError: it is not.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{printable(str(path))} has a name that is not UTF-8; rename the file or folder"
        ) from None


def real_path(path: Path) -> Path:
    """Where a path leads, links followed; a loop of links leads to itself.

    `Path.resolve` raises RuntimeError for one before Python 3.13.
    """
    return Path(os.path.realpath(path))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading bytes.

    Raises:
        OSError: it is not there, or must not be read.
        ValueError: it is a folder, a pipe, a device or a socket.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError:
        if os.path.isdir(path):  # which Windows does not open
            raise ValueError(f"{printable(str(path))} is a folder") from None
        raise
    except ValueError:  # a zero byte
        raise ValueError(f"{printable(str(path))} cannot be the name of a file") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise ValueError(f"{printable(str(path))} is {kind}")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, most: int = MAX_TEXT) -> bytes:
    """A regular file's bytes.

    Raises:
        ValueError: it cannot be read, or has more than `most` bytes.
    """
    try:
        with open_regular(path) as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    if len(raw) > most:
        raise ValueError(f"{path} is larger than {most:,} bytes, which is more than it can need")
    return raw


def read_text(path: Path, most: int = MAX_TEXT) -> str:
    """A UTF-8 text file, with or without a byte order mark, line ends as "\\n".

    Raises:
        ValueError: it cannot be read, has more than `most` bytes, or is not UTF-8.
    """
    try:
        text = read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{path} is not UTF-8 text (byte 0x{byte:02x})") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, most: int = MAX_TEXT) -> dict[str, Any]:
    """Read a JSON object of at most `most` bytes; `ValueError` in one sentence if it is none."""
    text = read_text(path, most)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


@contextmanager
def whole(path: Path, put: Callable[[Path, Path], Any] = Path.replace) -> Iterator[Path]:
    """Another path to write `path` under: it is there whole when the block ends, or not at all.

    The file gets the mode that the umask gives. What a killed process left of the same file goes.

    Args:
        put: gives the written file its place, from the path that was written to `path`.

    Raises:
        ValueError: the disk is full, or the place cannot be written.
    """
    with private_folder(path) as private:
        partial = private / path.name
        with put_down(partial, path):
            yield partial
        with _disk_errors(path):
            put(partial, path)


@contextmanager
def put_down(partial: Path, path: Path) -> Iterator[None]:
    """A block that writes a new file, which gets the umask's mode and is on the disk when it ends.

    Args:
        path: what it is, or is a part of, where it comes to lie; for errors.

    Raises:
        ValueError: the disk is full, or the place cannot be written.
    """
    with _disk_errors(path):
        partial.touch(exist_ok=False)
        mode = partial.stat().st_mode
        yield
        partial.chmod(stat.S_IMODE(mode))  # libraries make files that nobody else can read
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the name without its bytes


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """What a disk refuses while `path` is written, in a sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot write {path}: {reason}") from None


def sweep(folder: Path, start: str = ".") -> None:
    """Remove what killed processes left half-written in `folder`; what another one writes stays."""
    for leftover in folder.glob(f"{escape(start)}*{_PARTIAL}"):
        if leftover.is_dir() and not leftover.is_symlink():
            with suppress(OSError), locked(leftover, wait=False):  # or another process holds it
                shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def private_folder(path: Path) -> Iterator[Path]:
    """A fresh folder beside `path`, held while the block runs and removed then.

    Raises:
        ValueError: the place cannot be written.
    """
    start = f".{path.name[:64]}."  # names have a largest length
    with ExitStack() as stack:
        try:
            sweep(path.parent, start)
            while True:  # another thread or process may sweep one before it is held
                private = Path(tempfile.mkdtemp(_PARTIAL, start, path.parent))
                with suppress(FileNotFoundError, BlockingIOError):
                    stack.enter_context(locked(private, wait=False))
                    if private.exists():
                        break
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror}") from None
        stack.callback(shutil.rmtree, private, ignore_errors=True)
        yield private


_LOCKS: set[int] = set()  # descriptors of this process's own locks


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder for the moment in which a name in it is chosen and taken: other commands that
    do the same wait. Where a file system has no locks, they do not."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(locked(folder))
        yield


@contextmanager
def shared_folder(folder: Path) -> Iterator[None]:
    """A folder that several processes write into: made, held as `alone` does and swept, for the
    block in which this one says whose it is, or finds out.

    Raises:
        ValueError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {printable(str(folder))}: {error.strerror}") from None
    with alone(folder):
        sweep(folder)
        yield


@contextmanager
def locked(
    path: Path, *, make: bool = False, shared: bool = False, wait: bool = True
) -> Iterator[None]:
    """Hold a folder or file against others while the block runs.

    The kernel lets go of it when the process dies, whatever its workers do. Where there are no such
    locks (Windows, some network disks) nothing is held.

    Args:
        make: it is a file, which is made where it is not there; no link is followed.
        shared: beside others that share it.
        wait: for whoever holds it.

    Raises:
        BlockingIOError: another one holds it, and `wait` is false.
        OSError: it cannot be opened.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW if make else os.O_RDONLY
    descriptor = os.open(path, flags, 0o666)
    _give_up_in_forks()
    _LOCKS.add(descriptor)
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        try:
            fcntl.flock(descriptor, mode)
        except BlockingIOError:
            raise
        except OSError:  # a disk without locks
            pass
        yield
    finally:
        if descriptor in _LOCKS:  # else this is a fork, which gave it up
            _LOCKS.remove(descriptor)
            os.close(descriptor)


@cache
def _give_up_in_forks() -> None:
    """A worker that outlives its killed parent must not keep the parent's locks."""

    def give_up() -> None:
        while _LOCKS:
            os.close(_LOCKS.pop())

    os.register_at_fork(after_in_child=give_up)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Add to the end of a UTF-8 text file, which is made where it is not there.

    Raises:
        ValueError: it is a link, a pipe that nobody reads, or cannot be written.
    """
    check_no_link(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with os.fdopen(os.open(path, flags, 0o666), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None


def check_no_link(path: Path) -> None:
    """Refuse a link where something of one's own is to be written, lest it lead elsewhere.

    Raises:
        ValueError: it is one.
    """
    if path.is_symlink():
        raise ValueError(f"cannot write {path}: it is a link; remove it")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # Half characters, from names of files that are not UTF-8, become JSON's own escapes.
    write_text(path, text.encode("utf-8", "backslashreplace").decode())


def write_safetensors(
    path: Path, tensors: Mapping[str, "Tensor"], facts: Mapping[str, str] | None = None
) -> None:
    """Write tensors, and `facts` into the header; the file is there whole or not at all."""
    from safetensors.torch import save_file

    check_utf8(path)
    stored = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with whole(path) as partial:
        save_file(stored, partial, {"format": "pt", **(facts or {})})


@contextmanager
def opened_safetensors(file: Path) -> Iterator[Any]:
    """A safetensors file; `ValueError` if it is truncated or none."""
    from safetensors import SafetensorError, safe_open

    check_utf8(file)
    try:
        open_regular(file).close()
        with safe_open(file, "pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        said = printable(str(error))[:_REASON]  # the library repeats what is in the header
        raise ValueError(f"{file} is not a whole safetensors file: {said}") from None


def read_facts(file: Path) -> dict[str, str]:
    """What the header of a safetensors file says beside its tensors."""
    with opened_safetensors(file) as opened:
        return dict(opened.metadata() or {})


def read_safetensors(file: Path) -> "dict[str, Tensor]":
    """All tensors of a file, memory-mapped; `ValueError` if it is truncated or no safetensors."""
    with opened_safetensors(file) as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
