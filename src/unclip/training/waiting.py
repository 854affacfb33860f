"""How long a run waits for its data, and a sentence where that is long."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SILENCE = 60.0  # seconds without a batch, after which that is said


class Waiting:
    """The time that passes while this process waits for batches: it is entered for each of them.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.seconds = 0.0  # since the last `share`
        self.since: float | None = None  # when a wait began that still lasts
        self._told = False
        self._asked = clock()

    def __enter__(self) -> None:
        self._told, self.since = False, self.clock()

    def __exit__(self, *_: object) -> None:
        if self.since is not None:
            self.seconds += self.clock() - self.since
        self.since = None

    def share(self) -> float:
        """The fraction of the time since it was last asked for, or since the start."""
        now, waited = self.clock(), self.seconds
        passed, self._asked, self.seconds = now - self._asked, now, 0.0
        return min(1.0, waited / passed) if passed > 0 else 0.0

    def silent(self, longest: float = SILENCE) -> bool:
        """Whether a wait lasts longer than that, which is said once of each."""
        since = self.since
        if since is None or self._told or self.clock() - since < longest:
            return False
        self._told = True
        return True


@contextmanager
def watched(waiting: Waiting, say: Callable[[], None], longest: float = SILENCE) -> Iterator[None]:
    """A block beside which a thread looks now and then whether a wait is `longest` seconds old, and
    then calls `say`."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(longest / 6):
            if waiting.silent(longest):
                say()

    thread = threading.Thread(target=watch, name="unclip-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
