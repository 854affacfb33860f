"""Signals that ask a run to stop, which it does after the step under way."""

import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType


@dataclass
class Stopper:
    """Turns SIGINT and SIGTERM into a wish to stop after the step under way.

    Args:
        said: what is written on the standard error stream when the first one comes.
    """

    said: str = ""
    signal: int = 0
    _old: dict[int, object] = field(default_factory=dict)

    def __enter__(self) -> "Stopper":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.said and not self.signal:
            with suppress(OSError):  # not `print`, which may be what was interrupted
                os.write(2, f"\n{self.said}\n".encode())
        self.signal = number
