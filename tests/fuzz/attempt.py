"""One case in a process of its own, and what is wrong with how it ended.

The child is forked from a process that has imported everything, so that it starts at once; it has
limits of memory and time, a folder of its own, and no network.
"""

import faulthandler
import hashlib
import io
import json
import os
import re
import resource
import signal
import stat
import sys
import traceback
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.case import Case, Good, Maker
from unclip.checks import printable
from unclip.interfaces.cli import main

SECONDS = 20  # of computing; five times as many on the clock
MEMORY = 3 * 2**30  # bytes beyond what the parent has, that a case may really use
ADDRESSES = 6 * 2**30  # bytes beyond the parent's, that it may reserve
_FILES = 256  # open ones, so that no case starts processes without end
_LONGEST = 600  # characters of a refusal, which may name a path or two
_LEFT = re.compile(r"\.(partial|new|old|tmp)$")
_LIBTIFF = re.compile(r"\w*(TIFF|Decode|Error)\w*: |x\.tif: ")  # prints, and nobody can stop it
_BROKEN = ("Traceback (most recent", "fault of unclip", "Error: ")
_STOPPED = {signal.SIGXCPU: "too slow", signal.SIGALRM: "hangs", signal.SIGKILL: "killed"}


@dataclass
class Ended:
    """How a case ended. `faults` is empty where all is well."""

    title: str = ""
    code: int = 0
    faults: list[str] = field(default_factory=list)
    output: str = ""
    errors: str = ""


def start(maker: Maker, random: Random, good: Good, place: Path) -> int:
    """Fork a child that runs a case below `place`; its process id. Then `os.waitpid`, `ended`."""
    (place / "work").mkdir(parents=True)
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        faulthandler.disable()
        os.chdir(place / "work")
        _limit()
        _child(maker, random, good, place)
    except BaseException:  # the fuzz's own
        (place / "broken").write_text(traceback.format_exc())
    finally:
        os._exit(0)


def ended(place: Path, status: int) -> Ended:
    """What the child of `place` left, and the judgement."""
    if (place / "broken").exists():
        return Ended("the fuzz itself", faults=["broken"], errors=(place / "broken").read_text())
    if (place / "end.json").exists() and status == 0:
        return Ended(**json.loads((place / "end.json").read_text()))
    title = (place / "title").read_text() if (place / "title").exists() else "making the case"
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    what = _STOPPED.get(number, signal.Signals(number).name if number else f"exit {status >> 8}")
    errors = (place / "stderr").read_text(errors="replace") if (place / "stderr").exists() else ""
    return Ended(title, 128 + number, [what], errors=errors)


def _limit() -> None:
    there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (there + ADDRESSES,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGALRM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(5 * SECONDS)


def _child(maker: Maker, random: Random, good: Good, place: Path) -> None:
    case = maker(random, Path("."), good)
    (place / "title").write_text(case.title, errors="backslashreplace")
    before, used = _snapshot(Path(".")), _used()
    asked = _without_network()
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(place / name, os.O_CREAT | os.O_WRONLY), number)
        setattr(
            sys, name, io.TextIOWrapper(io.FileIO(number, "w"), case.encoding, write_through=True)
        )
    sys.stderr.reconfigure(errors="backslashreplace")  # as Python's own
    code = attempt(case)
    sys.stdout.flush()
    after = _snapshot(Path("."))
    output, errors = (
        (place / name).read_text(encoding=case.encoding, errors="replace")
        for name in ("stdout", "stderr")
    )
    end = Ended(ascii(case.title)[1:-1], code, [], output, errors)
    end.faults = [
        *_said(code, output, errors, case.codes),
        *_left(case, code, before, after),
        *(["asks the network"] if asked and not any("hf:" in word for word in case.words) else []),
        *(["needs much memory"] if _used() - used > MEMORY else []),
    ]
    (place / "end.json").write_text(json.dumps(asdict(end)))


def attempt(case: Case) -> int:
    """Run a case as `unclip` would; its exit code. A call that raises ValueError refuses, too."""
    try:
        if case.call is None:
            return main(case.words)
        case.call()
        return 0
    except ValueError as error:
        if case.call is None:
            traceback.print_exc()
            return 1
        # Python's errors hold names as they are; whoever prints them escapes them.
        lines = (printable(line) for line in str(error).split("\n"))
        print("unclip:", "\n".join(lines), file=sys.stderr)
        return 2
    except BaseException:
        traceback.print_exc()
        return 1


def _said(code: int, output: str, errors: str, codes: tuple[int, ...]) -> list[str]:
    """What is wrong with an exit code, which may be one of `codes`, and with what was printed."""
    faults = []
    if code not in codes:
        faults.append(f"exit {code}")
    if any(word in errors for word in _BROKEN) and code != 2:
        faults.append("traceback")
    if code == 2:
        lines = [line for line in errors.splitlines() if line and not _LIBTIFF.match(line)]
        if len(lines) != 1 or not lines[0].startswith("unclip: "):
            faults.append(f"{len(lines)} lines instead of a sentence")
        elif len(lines[0]) > _LONGEST:
            faults.append(f"a sentence of {len(lines[0]):,} characters")
    if ".py:" in errors and "Warning: " in errors:
        faults.append("a warning of a library's")
    if any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in output + errors):
        faults.append("control characters")
    return faults


def _left(case: Case, code: int, before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Inputs that changed, and files that should not be there."""
    names = [name for name in after if _LEFT.search(name) and name not in before]
    faults = [f"leaves {names[0]}"] if names else []
    may = case.writes if code == 0 else ()
    changed = [
        name for name in before
        if after.get(name) != before[name] and name.split("/")[0] not in may
    ]  # fmt: skip
    if changed:
        faults.append(f"changes {changed[0]}")
    new = [name for name in after if name not in before and name.split("/")[0] not in case.keeps]
    if code == 2 and new and not names:
        faults.append(f"leaves {new[0]} after a refusal")
    return faults


def _snapshot(folder: Path) -> dict[str, str]:
    """Kind and content of everything below a folder."""
    found = {}
    for here, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(here, name)
            state = path.lstat()
            content = ""
            if stat.S_ISLNK(state.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(state.st_mode) and state.st_size < 2**24:
                content = hashlib.sha1(path.read_bytes()).hexdigest()
            found[str(path)] = f"{stat.S_IFMT(state.st_mode)} {content}"
    return found


def _used() -> int:
    """The most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _without_network() -> list[str]:
    """Refuse what would leave the machine; a list that names it."""
    asked: list[str] = []

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event == "socket.getaddrinfo" or (
            event == "socket.connect" and isinstance(arguments[1], tuple)
        ):
            asked.append(event)
            raise OSError(101, "Network is unreachable")

    sys.addaudithook(refuse)
    return asked
