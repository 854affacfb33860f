"""Who is served when: a bounded queue, fair between clients, before one thread that computes.

A request takes a `Place`. What it wants of it, images or a call, waits in its client's line;
clients take turns, an image at a time. What fits together (`Engine.key`) is computed together,
whoever asked for it. A request that is given up never starts, and if it has begun, what is computed
ends after the step, unless others wait for the same.

Everything but the thread's own work happens in the event loop; the lines are under one lock.
"""

import asyncio
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Protocol

Step = Callable[[int, str, int, Any], None]
"""Called in the thread after each step with the item's number in its request, the stage, the step's
number and the item's x̂_0 (1, ...); of a prior, whose candidates are several rows, not its own."""
_USUAL = 1.0  # seconds for an item, until one has been computed


class FullError(Exception):
    """As many requests wait as may: try again in `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {seconds} s")
        self.seconds = seconds


class LateError(Exception):
    """A request's time was up before it was done."""


class ClosingError(Exception):
    """The scheduler closes, and takes nothing more."""


class GivenUp(Exception):  # noqa: N818  (no error)
    """Raised through a computation that nobody waits for any more."""


class Engine(Protocol):
    """What computes, in the scheduler's thread."""

    def key(self, item: Any) -> Hashable:
        """Equal for items that can be computed together."""
        ...

    def compute(
        self, items: Sequence[Any], watch: Callable[[str, int, Any], None]
    ) -> Sequence[Any]:
        """The results of items of one key.

        Args:
            watch: to be called after each step with the stage, the step's number and the items'
                x̂_0 (N, ...); what it raises must come through.
        """
        ...


class Observer(Protocol):
    """Is told what happens, in whichever thread it does."""

    def waited(self, seconds: float) -> None:
        """An item's wait is over."""
        ...

    def computed(self, items: int, seconds: float) -> None:
        """So many items were computed at once."""
        ...


class Scheduler:
    """Runs an engine in a thread of its own.

    Args:
        queue: requests that may wait, beside those that are computed.
        together: items computed at once, at most.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        queue: int = 64,
        together: int = 1,
        observer: Observer | None = None,
    ) -> None:
        self.engine, self.queue, self.together, self.observer = engine, queue, together, observer
        self.closing = False
        self._lines: OrderedDict[str, deque[_Task]] = OrderedDict()
        self._places: dict[Place, None] = {}  # in the order of their coming
        self._running: list[_Task] = []
        self._changed = threading.Condition()
        self._pace = _USUAL
        self._thread = threading.Thread(target=self._work, name="unclip-engine", daemon=True)
        self._thread.start()

    # ---- from the event loop ---------------------------------------------------------------------

    @contextmanager
    def place(self, client: str, seconds: float = math.inf) -> "Iterator[Place]":
        """A place for one request; leaving the block gives up what of it is not done.

        Where the queue is full, a client that has fewer places than another takes the newest one of
        the one who has most, if it has not begun.

        Args:
            client: takes turns with the others.
            seconds: until its time is up.

        Raises:
            FullError, ClosingError: there is none.
        """
        with self._changed:
            if self.closing:
                raise ClosingError("the server is shutting down")
            if len(self._places) >= self.queue + self.together and not self._make_room(client):
                raise FullError(self.retry_after())
            place = Place(self, client, seconds)
            self._places[place] = None
        try:
            yield place
        finally:
            self._leave(place)

    def _leave(self, place: "Place", refusal: Exception | None = None) -> None:
        with self._changed:
            place.left = True
            self._places.pop(place, None)
            line = self._lines.get(place.client, deque())
            for task in [task for task in line if task.place is place]:
                line.remove(task)
                task.tell_cancelled() if refusal is None else task.tell(error=refusal)
            if not line:
                self._lines.pop(place.client, None)
            self._changed.notify_all()

    def _make_room(self, client: str) -> bool:
        counts: dict[str, int] = {}
        for place in self._places:
            counts[place.client] = counts.get(place.client, 0) + 1
        most = max(counts, key=lambda name: counts[name])
        if counts[most] <= counts.get(client, 0) + 1:
            return False
        newest = [p for p in self._places if p.client == most and not p.begun and p.waiting]
        if newest:
            self._leave(newest[-1], FullError(self.retry_after()))
        return bool(newest)

    def retry_after(self) -> int:
        """Seconds after which there may be room: what waits, at the pace so far."""
        waiting = sum(map(len, self._lines.values())) + len(self._running)
        return min(600, max(1, math.ceil(waiting * self._pace)))

    @property
    def waiting(self) -> int:
        """Requests of which nothing is being computed now."""
        with self._changed:
            return len(self._places.keys() - {task.place for task in self._running})

    @property
    def running(self) -> int:
        """Requests of which something is being computed."""
        with self._changed:
            return len({task.place for task in self._running})

    @property
    def alive(self) -> bool:
        """Whether the thread that computes is there."""
        return self._thread.is_alive()

    async def close(self) -> None:
        """Take nothing more, refuse what has not begun, and return when all else is done."""
        with self._changed:
            self.closing = True
            for place in [place for place in self._places if not place.begun]:
                self._leave(place, ClosingError("the server is shutting down"))
            self._changed.notify_all()
        while self._thread.is_alive():
            await asyncio.sleep(0.02)

    def _submit(self, tasks: "Sequence[_Task]") -> None:
        with self._changed:
            place = tasks[0].place
            if place.left:
                raise ClosingError("the server is shutting down")
            line = self._lines.setdefault(place.client, deque())
            line.extend(tasks)
            self._changed.notify_all()

    # ---- in the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        while batch := self._next():
            self._run(batch)
            with self._changed:
                self._running = []

    def _next(self) -> "list[_Task]":
        """What is computed next; nothing when all is over."""
        with self._changed:
            while not self._lines:
                if self.closing and not self._places:
                    return []
                self._changed.wait(0.5)
            first = self._take(next(iter(self._lines)), lambda task: True)
            assert first is not None
            batch, clients = [first], deque(self._lines)
            while first.key is not None and clients and len(batch) < self.together:
                client = clients.popleft()
                if (more := self._take(client, lambda task: task.key == first.key)) is not None:
                    batch.append(more)
                    clients.append(client)
            for task in batch:
                task.place.begun = True
            self._running = batch
        if self.observer is not None:
            for task in batch:
                self.observer.waited(time.monotonic() - task.since)
        return batch

    def _take(self, client: str, fits: "Callable[[_Task], bool]") -> "_Task | None":
        """The first task of a client that fits; the client is the last one then to have a turn."""
        line = self._lines.get(client)
        found = next(filter(fits, line or ()), None)
        if line is None or found is None:
            return None
        line.remove(found)
        del self._lines[client]
        if line:
            self._lines[client] = line
        return found

    def _run(self, batch: "list[_Task]") -> None:
        """Compute, and tell those who wait; what fails together is tried one by one."""
        started = time.monotonic()
        try:
            results = self._computed(batch)
        except GivenUp:
            results = []
            for task in batch:
                task.tell_cancelled()
        except BaseException as error:
            if len(batch) > 1:
                for task in batch:
                    self._run([task])
            else:
                batch[0].tell(error=error)
            return
        for task, result in zip(batch, results, strict=False):
            task.tell(result)
        if results:
            seconds = time.monotonic() - started
            self._pace += 0.3 * (seconds / len(batch) - self._pace)
            if self.observer is not None and batch[0].key is not None:
                self.observer.computed(len(batch), seconds)

    def _computed(self, batch: "list[_Task]") -> Sequence[Any]:
        def watch(stage: str, step: int, x0: Any) -> None:
            if all(task.place.left for task in batch):
                raise GivenUp
            for row, task in enumerate(batch):
                if task.step is not None and not task.place.left:
                    task.step(task.number, stage, step, x0[row : row + 1])

        if all(task.place.left for task in batch):
            raise GivenUp
        if batch[0].key is None:
            return [batch[0].item(watch)]
        return self.engine.compute([task.item for task in batch], watch)


class Place:
    """What one request has of the scheduler; `Scheduler.place` gives it."""

    def __init__(self, scheduler: Scheduler, client: str, seconds: float) -> None:
        self.client, self.begun, self.left, self.waiting = client, False, False, False
        self._scheduler, self._until = scheduler, time.monotonic() + seconds
        self._patience = seconds

    async def images(self, items: Sequence[Any], step: Step | None = None) -> list[Any]:
        """The engine's results of items, each computed when its turn comes.

        Raises:
            LateError: the request's time is up; ClosingError, FullError: it had to make way.
        """
        keys = map(self._scheduler.engine.key, items)
        tasks = [
            _Task(self, item, key, step, number)
            for number, (item, key) in enumerate(zip(items, keys, strict=True))
        ]
        return await self._done(tasks)

    async def call(self, work: Callable[[Callable[[str, int, Any], None]], Any]) -> Any:
        """What a function gives that computes alone in the thread; its argument is a `watch`."""
        [result] = await self._done([_Task(self, work, None, None, 0)])
        return result

    async def _done(self, tasks: "list[_Task]") -> list[Any]:
        if not tasks:
            return []
        self.waiting = True
        try:
            self._scheduler._submit(tasks)
            left = self._until - time.monotonic()
            async with asyncio.timeout(left if math.isfinite(left) else None):
                return list(
                    await asyncio.gather(*(asyncio.wrap_future(task.future) for task in tasks))
                )
        except TimeoutError:
            self.left = True
            raise LateError(f"the request took longer than {self._patience:g} s") from None
        finally:
            self.waiting = False


class _Task:
    """An item, or a call (`key` is None), of a request."""

    def __init__(
        self, place: Place, item: Any, key: Hashable, step: Step | None, number: int
    ) -> None:
        self.place, self.item, self.key, self.step, self.number = place, item, key, step, number
        self.since = time.monotonic()
        self.future: Future[Any] = Future()

    def tell(self, result: Any = None, error: BaseException | None = None) -> None:
        if self.future.cancelled() or not self.future.set_running_or_notify_cancel():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)

    def tell_cancelled(self) -> None:
        self.future.cancel()
