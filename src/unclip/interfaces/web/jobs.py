"""What a person asked the page for, through the same scheduler as the API's requests: how far it
is, what it looks like on the way, and how it ends. Knows no gradio.
"""

import asyncio
import json
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.guard import LOG
from unclip.interfaces.server.refusals import refusal_of
from unclip.outputs.images import encoded
from unclip.pipeline.together import Planned, Watch, glimpse
from unclip.serving.scheduler import Place

_GLIMPSE = 0.3  # seconds between images on the way, which cost a little each
_LOOK = 0.3  # seconds between looks at how far a job is
_STILL = 2.0  # seconds after which it is shown though it looks the same: is anybody there?


@dataclass(frozen=True)
class Called:
    """An image that is computed alone.

    Args:
        steps: that its watch is told of.
    """

    make: Callable[[Watch], Image.Image]
    steps: int


@dataclass(frozen=True)
class Download:
    """A file beside the images.

    Args:
        kind: its media type.
        picture: what it shows, for those who cannot see it; empty for what is no picture.
    """

    name: str
    data: bytes
    kind: str
    picture: str = ""


@dataclass(frozen=True)
class Work:
    """What is to be made.

    Args:
        labels: of the images, a short one each.
        alts: what each of them shows, for those who cannot see it.
        items: how each image is made of what `find` gave.
        steps: of all of it.
        command, python: what does the same on the command line and in Python.
        infos: what the notes of each image say.
        names: of the files, without their ending.
        find: what is computed first, alone: embeddings, an inversion.
        kept: an image whose pixels no mark changes, where an image that was made has them too.
        shown: images that are there before: label and image.
        downloads: files made of all images and of what `find` gave.
        facts: sentences about the images.
        frames: whether the images are frames, to be gone through with a slider.
        columns: of the sheet, where its rows mean something.
        notices: what a person should know before.
    """

    labels: Sequence[str]
    alts: Sequence[str]
    items: Callable[[Any], Sequence[Planned | Called]]
    steps: int
    command: str
    python: str
    infos: Sequence[Mapping[str, Any]]
    names: Sequence[str]
    find: Callable[[Watch], Any] | None = None
    kept: Image.Image | None = None
    shown: Sequence[tuple[str, Image.Image]] = ()
    downloads: Callable[[Any, Sequence[Image.Image]], Sequence[Download]] = lambda *_: ()
    facts: Callable[[Sequence[Image.Image]], Sequence[str]] = lambda _: ()
    frames: bool = False
    columns: int = 0
    notices: Sequence[str] = ()


@dataclass
class Cell:
    """An image on its way.

    Attributes:
        image: once it is there.
        file: it, marked and with its notes, as it is written.
        address: where it lies for an hour.
    """

    label: str
    glimpse: Image.Image | None = None
    image: Image.Image | None = None
    file: bytes = b""
    address: str = ""
    seen: float = 0.0


@dataclass
class Job:
    """A work while it is done, for one client."""

    desk: Desk
    client: str
    work: Work
    cells: list[Cell] = field(default_factory=list)
    done: int = 0
    downloads: Sequence[Download] = ()
    facts: Sequence[str] = ()
    seconds: float = 0.0
    error: str = ""
    over: bool = False

    def __post_init__(self) -> None:
        self.cells = [Cell(label) for label in self.work.labels]
        self.began = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        return min(1.0, self.done / max(1, self.work.steps))

    @property
    def waits(self) -> bool:
        """Whether nothing of it has been computed yet."""
        return self.done == 0 and not self.over

    @property
    def _sight(self) -> object:
        """Equal while it looks the same."""
        return round(100 * self.share), [(one.seen, one.address) for one in self.cells]

    def cancel(self) -> None:
        """End it after the step that is running; it never starts if it waits."""
        if self._task is not None:
            self._task.cancel()

    async def watched(self) -> AsyncIterator["Job"]:
        """Do the work, and give this job whenever it is worth another look; what goes wrong is its
        `error`. Whoever stops looking cancels it."""
        self._task = task = asyncio.ensure_future(self._run())
        try:
            seen, since = None, 0.0
            while not task.done():
                if seen != self._sight or time.monotonic() - since > _STILL:
                    seen, since = self._sight, time.monotonic()
                    yield self
                await asyncio.wait({task}, timeout=_LOOK)
            try:
                task.result()
            except asyncio.CancelledError:
                self.error = "Cancelled: what was running ended after its step."
            except Exception as error:
                self.error = said(error)
                if refusal_of(error).code == "server_error":
                    fault = "".join(traceback.format_exception(error))[-4000:]
                    LOG.error(json.dumps({"event": "page", "fault": fault}))
        finally:
            task.cancel()
            self.over = True
            self.seconds = time.monotonic() - self.began
        yield self

    async def _run(self) -> None:
        work, found = self.work, None
        with self.desk.scheduler.place(self.client, self.desk.limits.seconds) as place:
            if work.find is not None:
                find = work.find
                found = await place.call(lambda watch: find(self._counting(watch)))
            items = await asyncio.to_thread(work.items, found)
            making = [
                asyncio.ensure_future(self._made(place, number, item))
                for number, item in enumerate(items)
            ]
            try:
                images = await asyncio.gather(*making)
            finally:
                for one in making:
                    one.cancel()
                    with suppress(BaseException):
                        await one
        self.facts = work.facts(images)
        self.downloads = await asyncio.to_thread(work.downloads, found, images)

    async def _made(self, place: Place, number: int, item: Planned | Called) -> Image.Image:
        cell = self.cells[number]
        image: Image.Image
        if isinstance(item, Called):
            make = item.make
            image = await place.call(lambda watch: make(self._counting(watch)))
            self.desk.metrics.images.inc()
        else:
            [image] = await place.images([item], self._step(cell, item))
        cell.file = await asyncio.to_thread(self._written, number, image)
        cell.image, cell.address = image, self.kept(cell.file, "image/png")
        return image

    def kept(self, data: bytes, kind: str) -> str:
        """An address at which a picture lies for an hour, which nobody can guess."""
        return f"v1/images/files/{self.desk.kept.put(data, kind)}"

    def _written(self, number: int, image: Image.Image) -> bytes:
        """A PNG as the command line writes it."""
        provenance = self.desk.provenance
        marked, note = provenance.marked(image, self.work.kept)
        notes = {**self.work.infos[number], **note}
        return provenance.signed(encoded(marked, notes), "image/png", notes)

    def _counting(self, watch: Watch) -> Watch:
        def counted(stage: str, step: int, x0: Any) -> None:
            watch(stage, step, x0)
            self.done += 1

        return counted

    def _step(self, cell: Cell, row: Planned) -> Callable[..., None]:
        def step(_: int, stage: str, at: int, x0: Any) -> None:
            self.done += 1
            now = time.monotonic()
            if stage == "decoder" and now - cell.seen > _GLIMPSE:
                cell.seen, cell.glimpse = now, glimpse(self.desk.pipe, row, x0)

        return step


def said(error: BaseException) -> str:
    """What went wrong, in a sentence for a person."""
    text = str(refusal_of(error)).strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '…', '?')) else '.'}"
