"""What ends a command becomes an exit code and a sentence; docs/errors.md has them all."""

import errno
import os
import platform
import shlex
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import unclip
from unclip import __version__
from unclip.checks import printable

DONE, OURS, REQUEST, INTERRUPTED, STOPPED = 0, 1, 2, 130, 143
_UNCLIP = os.path.dirname(unclip.__file__)
_SENTENCE, _WORD = 600, 240  # characters at most; names of files have up to 255, paths more
# torch's errors have no class of their own on a CPU, and several on GPUs.
_NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "alloc_failed",
)


class _Terminated(SystemExit):
    """SIGTERM came; worker processes that inherit the handler end without a word."""


def exit_code(run: Callable[[], int], words: Sequence[str]) -> int:
    """Run a command; say in a sentence what went wrong, and whose fault it is.

    Args:
        words: the command line, for the report of a fault of ours.
    """
    try:
        with _stopped_by_sigterm():
            code = _code_of(run)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BaseException as error:  # Rust's panics are no Exception
        if os.environ.get("UNCLIP_TRACEBACK"):
            _say(traceback.format_exc().rstrip())
        code, sentence = judged(error, words)
        _say(f"unclip: {sentence}")
    return code


def _code_of(run: Callable[[], int]) -> int:
    try:
        return run()
    except _Terminated:
        _say("stopped by SIGTERM")
        return STOPPED
    except SystemExit as stop:  # help was printed
        return stop.code if isinstance(stop.code, int) else DONE


def judged(error: BaseException, words: Sequence[str]) -> tuple[int, str]:
    """The exit code, and what to say."""
    if _is_memory(error):
        return REQUEST, _more_memory(words)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        return REQUEST, f"{where}the disk is full; make room, or write to another one"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return REQUEST, _cut(f"{where}{error.strerror}")
    if isinstance(error, ValueError | OSError) and not isinstance(error, UnicodeError):
        return REQUEST, _cut(str(error))
    return OURS, _fault(error, words)


def _fault(error: BaseException, words: Sequence[str]) -> str:
    what = _cut(f"{type(error).__name__}: {error}")
    frames = traceback.extract_tb(error.__traceback__)
    theirs = _of_another(frames)
    if theirs is not None:
        place = f"{_cut(theirs.filename)}, line {theirs.lineno}"
        return (
            f"a fault in {place}, which is no part of unclip: {what} "
            f"(UNCLIP_TRACEBACK=1 prints all of it)"
        )
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    command = _cut(shlex.join(["unclip", *words]))
    return (
        f"a fault of unclip's, not of your request: {what}{where}. Please report it with this line "
        "and what the command prints with UNCLIP_TRACEBACK=1 set. It was: "
        f"{command} (unclip {__version__}, Python {platform.python_version()}, {sys.platform})"
    )


def _of_another(frames: Sequence[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    """The frame in a file that somebody added to unclip, if that is where an error began: libraries
    that either of them has called are passed over."""
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    for frame in reversed(frames):
        if _lies_in(frame.filename, _UNCLIP):
            return None
        named = frame.filename.startswith("<")  # "<string>", "<frozen importlib._bootstrap>"
        if not named and not any(_lies_in(frame.filename, place) for place in libraries):
            return frame
    return None


def _lies_in(file: str, folder: str) -> bool:
    return os.path.realpath(file).startswith(os.path.realpath(folder) + os.sep)


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(said in text for said in _NO_MEMORY)


def _more_memory(words: Sequence[str]) -> str:
    if words[:1] == ["train"]:
        lower = "--training.batch-size (or raise --training.accumulation), the network or data.size"
    else:
        lower = "--batch-size, -n or --size, try --offload"
    return f"there is not enough memory for this: lower {lower}, or close other programs"


def _cut(text: str) -> str:
    """One line that repeats nobody's value at length: the beginning and the end say the most."""
    line = " ".join(_middle(printable(word), _WORD) for word in text.split())
    return _middle(line, _SENTENCE)


def _middle(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: 2 * most // 3]}…{text[-most // 3 :]}"


def _say(text: str) -> None:
    with suppress(OSError):  # nobody can be told
        print(text, file=sys.stderr, flush=True)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: what is half-written is removed on the way out."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated(STOPPED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
