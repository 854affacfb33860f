"""Who is served when: an engine that a test moves step by step stands in for the model."""

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from unclip.serving.scheduler import (
    ClosingError,
    FullError,
    GivenUp,
    LateError,
    Place,
    Scheduler,
)

STEPS = 3


class Stepping:
    """Items are (key, value); the result is the value's square. Each step waits for `go`."""

    def __init__(self, free: bool = True) -> None:
        self.batches: list[list[Any]] = []
        self.ended: list[str] = []
        self.steps = threading.Semaphore(0)
        self.free = free
        self.began = threading.Semaphore(0)

    def key(self, item: Any) -> Any:
        return item[0]

    def compute(self, items: Sequence[Any], watch: Callable[[str, int, Any], None]) -> list[Any]:
        self.batches.append([value for _, value in items])
        self.began.release()
        try:
            for step in range(STEPS):
                if not self.free:
                    assert self.steps.acquire(timeout=30)
                watch("decoder", step, [value * (step + 1) for _, value in items])
        except GivenUp:
            self.ended.append("given up")
            raise
        if any(value == "wrong" for _, value in items):
            raise ValueError("wrong")
        self.ended.append("done")
        return [value * value for _, value in items]

    def go(self, steps: int = STEPS) -> None:
        self.steps.release(steps)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self.began.acquire, timeout=30)


def run(test: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(limited())


async def ask(
    scheduler: Scheduler, client: str, *items: Any, seconds: float = 1e9, step: Any = None
) -> list[Any]:
    with scheduler.place(client, seconds) as place:
        return await place.images(items, step)


async def asked(scheduler: Scheduler, client: str, *items: Any, **more: Any) -> "asyncio.Task[Any]":
    """Asked, and waiting in its line."""
    task = asyncio.create_task(ask(scheduler, client, *items, **more))
    await asyncio.sleep(0)
    return task


def test_what_fits_is_computed_together_and_everyone_gets_its_own() -> None:
    async def test() -> None:
        engine = Stepping(free=False)
        scheduler = Scheduler(engine, together=3)
        first = await asked(scheduler, "a", ("k", 1))
        await engine.begun()
        others = [
            await asked(scheduler, client, *items)
            for client, items in {
                "a": [("k", 2), ("k", 3)], "b": [("other", 4)], "c": [("k", 5), ("k", 6)],
            }.items()
        ]  # fmt: skip
        engine.go(100)
        assert await first == [1]
        assert [await one for one in others] == [[4, 9], [16], [25, 36]]
        assert engine.batches == [[1], [2, 5, 3], [4], [6]]
        await scheduler.close()

    run(test())


def test_clients_take_turns_an_image_at_a_time() -> None:
    async def test() -> None:
        engine = Stepping(free=False)
        scheduler = Scheduler(engine)
        many = await asked(scheduler, "many", *[("k", n) for n in range(5)])
        await engine.begun()
        one = await asked(scheduler, "one", ("k", 10))
        again = await asked(scheduler, "many", ("k", 6))
        engine.go(100)
        await asyncio.gather(many, one, again)
        assert [batch[0] for batch in engine.batches] == [0, 1, 10, 2, 3, 4, 6]
        await scheduler.close()

    run(test())


def test_a_request_that_is_given_up_never_starts_or_ends_after_its_step() -> None:
    async def test() -> None:
        engine = Stepping(free=False)
        scheduler = Scheduler(engine)
        running = await asked(scheduler, "a", ("k", 1001), ("k", 1002))
        await engine.begun()
        queued = await asked(scheduler, "b", ("k", 1003))
        for task in (running, queued):
            task.cancel()
        await asyncio.gather(running, queued, return_exceptions=True)
        engine.go(1)  # one step, and the machine is free
        engine.free = True
        for number in range(100):
            assert await ask(scheduler, f"c{number}", ("k", number)) == [number**2]
        assert engine.ended == ["given up", *["done"] * 100]
        assert engine.batches == [[1001], *([number] for number in range(100))]
        assert scheduler.waiting == scheduler.running == 0
        await scheduler.close()

    run(test())


def test_one_of_a_batch_that_is_given_up_leaves_the_others_alone() -> None:
    async def test() -> None:
        engine = Stepping(free=False)
        scheduler = Scheduler(engine, together=2)
        blocker = await asked(scheduler, "x", ("other", 0))
        await engine.begun()
        one, other = [await asked(scheduler, name, ("k", 7)) for name in "ab"]
        engine.go()
        await engine.begun()
        one.cancel()
        await asyncio.gather(one, return_exceptions=True)
        engine.go()
        assert await other == [49]
        assert await blocker == [0]
        await scheduler.close()

    run(test())


def test_a_full_queue_says_when_to_come_again() -> None:
    async def test() -> None:
        engine = Stepping(free=False)
        scheduler = Scheduler(engine, queue=2)
        there = [await asked(scheduler, "a", ("k", n)) for n in range(3)]
        with pytest.raises(FullError) as refused:
            await ask(scheduler, "a", ("k", 9))
        assert 1 <= refused.value.seconds <= 600
        # Another client has fewer: the newest of the one who has most makes way.
        fair = await asked(scheduler, "b", ("k", 4))
        with pytest.raises(FullError):
            await there[2]
        engine.go(100)
        assert [await one for one in (*there[:2], fair)] == [[0], [1], [16]]
        await scheduler.close()

    run(test())


def test_time_runs_out_for_what_waits_and_for_what_runs() -> None:
    async def test() -> None:
        engine = Stepping(free=False)
        scheduler = Scheduler(engine)
        running = await asked(scheduler, "a", ("k", 1), seconds=0.05)
        queued = await asked(scheduler, "b", ("k", 2), seconds=0.05)
        for task in (running, queued):
            with pytest.raises(LateError, match=r"longer than 0\.05 s"):
                await task
        engine.go(1)
        await scheduler.close()
        assert engine.ended == ["given up"]
        assert engine.batches == [[1]]

    run(test())


def test_closing_finishes_what_has_begun_and_refuses_the_rest() -> None:
    async def test() -> None:
        engine = Stepping(free=False)
        scheduler = Scheduler(engine)
        begun = await asked(scheduler, "a", ("k", 1), ("k", 2))
        await engine.begun()
        queued = await asked(scheduler, "b", ("k", 3))
        closing = asyncio.create_task(scheduler.close())
        with pytest.raises(ClosingError):
            await queued
        with pytest.raises(ClosingError):
            await ask(scheduler, "c", ("k", 4))
        assert not closing.done()
        engine.go(100)
        assert await begun == [1, 4]
        await closing
        assert engine.batches == [[1], [2]]

    run(test())


def test_what_fails_together_is_tried_alone() -> None:
    async def test() -> None:
        engine = Stepping(free=False)
        scheduler = Scheduler(engine, together=3)
        blocker = await asked(scheduler, "x", ("other", 0))
        await engine.begun()
        values = (2, "wrong", 3)
        tasks = [
            await asked(scheduler, name, ("k", v)) for name, v in zip("abc", values, strict=True)
        ]
        engine.free = True
        engine.go()
        with pytest.raises((ValueError, TypeError)):
            await tasks[1]
        assert [await tasks[0], await tasks[2], await blocker] == [[4], [9], [0]]
        await scheduler.close()

    run(test())


def test_a_call_runs_alone_and_steps_are_told_in_order() -> None:
    async def test() -> None:
        scheduler = Scheduler(Stepping(), together=4)
        told: list[Any] = []

        def work(watch: Any) -> str:
            watch("inversion", 0, None)
            return threading.current_thread().name

        with scheduler.place("a") as place:
            assert await place.call(work) == "unclip-engine"
            made = await place.images([("k", 2), ("k", 3)], lambda *step: told.append(step))
        assert made == [4, 9]
        assert [step for step in told if step[0] == 1] == [
            (1, "decoder", 0, [3]), (1, "decoder", 1, [6]), (1, "decoder", 2, [9])
        ]  # fmt: skip
        await scheduler.close()

    run(test())


def test_nothing_is_lost_or_mixed_when_many_come_and_go() -> None:
    async def client(scheduler: Scheduler, number: int, draw: random.Random) -> int:
        right = 0
        for turn in range(12):
            values = [number * 1000 + turn * 10 + k for k in range(draw.randint(1, 3))]
            task = await asked(scheduler, str(number), *[(v % 3, v) for v in values])
            if draw.random() < 0.3:
                await asyncio.sleep(draw.random() / 500)
                task.cancel()
            try:
                assert await task == [v * v for v in values]
                right += 1
            except (asyncio.CancelledError, FullError):
                pass
        return right

    async def test() -> None:
        draw = random.Random(0)
        scheduler = Scheduler(Stepping(), queue=24, together=4)
        done = await asyncio.gather(*(client(scheduler, n, draw) for n in range(32)))
        assert sum(done) > 0
        for _ in range(1000):  # what was cancelled last may be in its last step
            if not scheduler.running:
                break
            await asyncio.sleep(0.01)
        assert scheduler.waiting == scheduler.running == 0
        await scheduler.close()

    run(test())


def test_a_place_that_was_left_takes_nothing_more() -> None:
    async def test() -> None:
        scheduler = Scheduler(Stepping())
        with scheduler.place("a") as place:
            assert isinstance(place, Place)
        with pytest.raises(ClosingError):
            await place.images([("k", 1)])
        await scheduler.close()

    run(test())
