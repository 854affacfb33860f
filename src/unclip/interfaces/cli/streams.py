"""What is printed, on any stream: closed, gone, of any encoding; and nothing that a terminal obeys.

All that a command prints goes through here, whoever wrote it: prompts, notes of images, names of
files, licences, sentences. Line ends are those of the stream, "\\r\\n" on Windows.
"""

import errno
import io
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from unclip.checks import Notice, printable

# Nobody reads any more: `| head`, a closed terminal, a descriptor closed or not open for writing.
_GONE = {errno.EPIPE, errno.EBADF, errno.EIO, errno.ESHUTDOWN, errno.ECONNRESET}
_GONE |= {errno.EINVAL} if os.name == "nt" else set()
# For streams that cannot show them; everything else that they cannot show becomes "?".
_PLAIN = {
    "×": "x", "…": "...", "→": "->", "±": "+-", "≥": ">=", "≤": "<=", "–": "-", "—": "-", "·": ".",
    "’": "'", "“": '"', "”": '"', "é": "e", "θ": "theta", "σ": "sigma", "η": "eta", "ε": "eps",
    "α": "alpha", "β": "beta", "√": "sqrt", "∞": "inf", "²": "2", "│": "|", "─": "-", "╭": "+",
    "╮": "+", "╰": "+", "╯": "+", "•": "*",
}  # fmt: skip


@contextmanager
def standard_streams() -> Iterator[None]:
    """Standard streams that can be written to while a command runs.

    What Pillow warns of, a damaged EXIF block say, is not printed: nobody can do anything about it.
    """
    open_closed()
    before = sys.stdout, sys.stderr
    out, err = _Shown(before[0], "the standard output"), _Shown(before[1])
    sys.stdout, sys.stderr = out, err
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        for stream in (out, err):
            with suppress(OSError):
                stream.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def notices() -> Iterator[None]:
    """Every `Notice` is a line on the standard error stream, once, while a command runs."""
    said: set[str] = set()

    def show(message: Any, category: Any, *rest: Any, **more: Any) -> None:
        if not issubclass(category, Notice):
            others(message, category, *rest, **more)
        elif str(message) not in said:
            said.add(str(message))
            _print_beside_bars(f"unclip: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        others, warnings.showwarning = warnings.showwarning, show
        yield


def _print_beside_bars(line: str) -> None:
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)


def open_closed() -> None:
    """Open what was closed at the start (`>&-`) on nothing, or the next file that a command opens
    would have that descriptor, and what is printed would land in it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:  # so Python says that it was closed
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def progress_bar(total: int) -> Any:
    """A bar on the standard error stream if that is a terminal, in ASCII where it must be."""
    from tqdm import tqdm

    off = not sys.stderr.isatty()
    return tqdm(total=total, unit="step", leave=False, disable=off, ascii=not _draws(sys.stderr))


def fitting(text: str, encoding: str | None) -> str:
    """`text` with what the encoding cannot express in plainer characters, or as "?"."""
    return "".join(_as_encoded(c, encoding or "utf-8") for c in text)


class _Shown:
    """A text stream that shows what is written to it, and drops it once nobody reads.

    Args:
        name: of a stream that is a command's product, so that what is lost must be said: `OSError`.
    """

    def __init__(self, stream: Any, name: str | None = None) -> None:
        self._stream, self._name = stream, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        # A bar is drawn over itself: its text begins with "\r". No other text may go back.
        start = text[:1] if text.startswith("\r") else ""
        safe = start + re.sub(r"[^\n\t]+", lambda line: printable(line[0]), text[len(start) :])
        encoding = getattr(self._stream, "encoding", None)
        with self._until_gone():
            self._stream.write(safe if safe.isascii() else fitting(safe, encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._until_gone():
            self._stream.flush()

    @contextmanager
    def _until_gone(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) and not self._stream.closed:
                raise
            self._leave()
            if isinstance(error, OSError) and error.errno not in _GONE and self._name:
                raise OSError(error.errno, error.strerror, self._name) from None

    def _leave(self) -> None:
        """From now on to nowhere, what is still in the buffer too."""
        with suppress(OSError, ValueError, io.UnsupportedOperation):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)


def _as_encoded(character: str, encoding: str) -> str:
    try:
        character.encode(encoding)
    except (UnicodeError, LookupError):
        return _PLAIN.get(character, "?")
    return character


def _draws(stream: Any) -> bool:
    """Whether a stream can show the blocks that bars are drawn with."""
    blocks = "█▉"
    return fitting(blocks, getattr(stream, "encoding", None)) == blocks
