"""A loader that keeps a run waiting, by a clock that the tests move."""

import threading

from unclip.training.waiting import Waiting, watched


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_share_is_of_the_time_since_it_was_asked_for() -> None:
    clock = Clock()
    waiting = Waiting(clock)
    for _ in range(2):
        with waiting:
            clock.now += 3
        clock.now += 1
    assert waiting.share() == 0.75
    clock.now += 5
    assert waiting.share() == 0.0
    assert waiting.share() == 0.0  # no time at all


def test_silence_is_said_once_of_each_wait() -> None:
    clock = Clock()
    waiting = Waiting(clock)
    clock.now += 1000
    assert not waiting.silent()  # nobody waits
    for _ in range(2):
        with waiting:
            assert not waiting.silent()
            clock.now += 61
            assert waiting.silent()
            assert not waiting.silent()


def test_a_thread_looks_while_the_run_waits() -> None:
    clock, said = Clock(), threading.Event()
    waiting = Waiting(clock)
    with watched(waiting, said.set, longest=0.06), waiting:
        clock.now += 1
        assert said.wait(60)
    assert not [one for one in threading.enumerate() if one.name == "unclip-waiting"]
