"""What all requests share: the model, the scheduler, limits, keys, numbers, kept images."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from unclip import __version__
from unclip.interfaces.cli.options import computed_as, made_on
from unclip.interfaces.server.bodies import Limits
from unclip.interfaces.server.keys import Keys
from unclip.interfaces.server.metrics import Metrics
from unclip.interfaces.server.refusals import RefusedError
from unclip.outputs.provenance import Provenance
from unclip.pipeline.embedding import remarks
from unclip.pipeline.inputs import check_prompts
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.serving.engine import PipelineEngine
from unclip.serving.scheduler import Scheduler

ALIASES = ("dall-e-2",)
"""Names that any model answers to: clients of the retired endpoints send them."""
_KEPT = 3600  # seconds


@dataclass
class Desk:
    """One model's server, without its routes.

    Args:
        name: of the model, for clients.
        model: as `--model` named it, for the notes of images.
        queue: requests that may wait.
        together: images computed at once; as the pipeline does if left out.
        log_prompts: whether the log may hold captions.
        hosts: that requests may name, where there are no keys; all if empty.
        provenance: how images say that they were generated.
        others: models by name that images can be compared with.
        closing: is called, in the event loop, when the server ends.
    """

    pipe: Pipeline
    name: str = "unclip"
    model: str | None = None
    queue: int = 64
    together: int | None = None
    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=Keys)
    log_prompts: bool = False
    hosts: frozenset[str] = frozenset()
    metrics: Metrics = field(default_factory=Metrics)
    provenance: Provenance = field(default_factory=Provenance)
    others: Mapping[str, "Other"] = field(default_factory=dict)
    closing: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started = int(time.time())
        self.kept = Kept()
        self.pipe.set_progress_bar_config(disable=True)
        self.scheduler = Scheduler(
            PipelineEngine(self.pipe), queue=self.queue,
            together=self.pipe.batch_size_for(self.together), observer=self.metrics,
        )  # fmt: skip
        self.metrics.watch(lambda: self.scheduler.waiting, lambda: self.scheduler.running)

    def check_model(self, name: str | None) -> None:
        """Refuse the name of a model that is not served."""
        if name not in (None, self.name, *ALIASES):
            raise RefusedError(
                404, f"the model served here is {self.name!r}", param="model",
                code="model_not_found",
            )  # fmt: skip

    def size(self, asked: str | None) -> int | None:
        """Pixels of a side that "WIDTHxHEIGHT" means; None for the largest."""
        sizes = {f"{size}x{size}": size for size in self.pipe.sizes}
        if asked in (None, "auto", *sizes):
            return sizes.get(asked or "")
        raise RefusedError(
            400, f"this model makes images of {', '.join(sizes)} pixels; leave size out, or give "
            "one of them", param="size", code="invalid_value",
        )  # fmt: skip

    def notices(self, *prompts: str) -> list[str]:
        """What of captions the model does not know, in sentences.

        Raises:
            RefusedError: 400, one is too long, or no text.
        """
        try:
            return remarks(self.pipe, check_prompts(list(prompts), empty=True))
        except ValueError as error:
            raise RefusedError(400, str(error), param="prompt", code="invalid_value") from None

    def notes(self, settings: Settings, request: str) -> dict[str, Any]:
        """What the notes of all images of a request say.

        Args:
            request: its id.
        """
        used = settings.changed() | computed_as(self.pipe)
        return {
            "settings": used, "model": self.model, "machine": made_on(self.pipe),
            "version": __version__, "request": request,
        }  # fmt: skip


class Other:
    """A model beside the one that is served, opened when it is first asked for.

    Args:
        model: as `--model` names it.
        opened: opens it.
    """

    def __init__(self, model: str | None, opened: Callable[[], Pipeline]) -> None:
        self.model, self._opened = model, opened

    @cached_property
    def pipe(self) -> Pipeline:
        """It, from the thread that computes."""
        made = self._opened()
        made.set_progress_bar_config(disable=True)
        return made


class Kept:
    """Images that lie at an address which nobody can guess, for an hour at most.

    Args:
        most: bytes of all of them; the oldest make way.
    """

    def __init__(self, most: int = 2**28) -> None:
        self.most, self._bytes = most, 0
        self._images: OrderedDict[str, tuple[float, bytes, str]] = OrderedDict()

    def put(self, data: bytes, kind: str) -> str:
        """Keep an image of a media type; its name."""
        name = f"{secrets.token_urlsafe(24)}.{kind.removeprefix('image/')}"
        self._images[name] = (time.monotonic(), data, kind)
        self._bytes += len(data)
        while self._bytes > self.most or self._old():
            _, (_, gone, _) = self._images.popitem(last=False)
            self._bytes -= len(gone)
        return name

    def get(self, name: str) -> tuple[bytes, str]:
        """The image and its media type; RefusedError 404."""
        since, data, kind = self._images.get(name, (-_KEPT - 1.0, b"", ""))
        if not data or time.monotonic() - since > _KEPT:
            raise RefusedError(404, "there is no such image, or it is older than an hour")
        return data, kind

    def _old(self) -> bool:
        first = next(iter(self._images.values()), None)
        return first is not None and time.monotonic() - first[0] > _KEPT
