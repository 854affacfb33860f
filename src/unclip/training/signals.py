"""Signals that ask a run to stop, which it does after the step under way."""

import signal
import threading
from dataclasses import dataclass, field
from types import FrameType


@dataclass
class Stopper:
    """Turns SIGINT and SIGTERM into a wish to stop after the step under way."""

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
        self.signal = number
