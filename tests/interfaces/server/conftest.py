"""A server on a free port of this machine, in a thread, with a tiny model."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from openai import OpenAI
from PIL import Image

from unclip.interfaces.server.app import application
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.serving import Server, listening
from unclip.pipeline.pipeline import Pipeline

FEW: dict[str, Any] = {
    "prior_num_inference_steps": 1, "decoder_num_inference_steps": 2,
    "super_res_num_inference_steps": 1,
}  # fmt: skip
DECODED = {name: steps for name, steps in FEW.items() if "prior" not in name}
"""Of what no prior draws."""


@dataclass
class Served:
    """A server, and clients of it."""

    desk: Desk
    server: Server
    http: httpx2.Client
    openai: OpenAI

    def post(self, path: str, key: str = "", **more: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self.http.post(path, headers=headers, **more)


@contextmanager
def serving(
    pipe: Pipeline, app: Callable[[Desk], Any] = application, **more: Any
) -> Iterator[Served]:
    """A server of a pipeline while the block runs.

    Args:
        app: makes the application of the desk.
    """
    desk = Desk(pipe, "tiny", **more)
    server = Server(desk, listening("127.0.0.1", 0), app=app(desk))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    until(lambda: server.started)
    with httpx2.Client(base_url=server.address, timeout=60) as http:
        try:
            client = OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)
            yield Served(desk, server, http, client)
        finally:
            server.stop()
    thread.join(60)
    assert not thread.is_alive()


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    for _ in range(6000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")


class Held:
    """The engine of a desk, which takes each step only when it is let."""

    def __init__(self, desk: Desk) -> None:
        self.inner, self.steps, self.begun = desk.scheduler.engine, threading.Semaphore(0), 0
        self.ended: list[str] = []

    def key(self, item: Any) -> Any:
        return self.inner.key(item)

    def compute(self, items: Sequence[Any], watch: Callable[..., None]) -> Sequence[Any]:
        self.begun += 1

        def held(*step: Any) -> None:
            assert self.steps.acquire(timeout=60)
            watch(*step)

        try:
            made = self.inner.compute(items, held)
        except BaseException:
            self.ended.append("given up")
            raise
        self.ended.append("done")
        return made

    def go(self, steps: int = 10_000) -> None:
        self.steps.release(steps)


@pytest.fixture(scope="session")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model, device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def served(pipe: Pipeline) -> Iterator[Served]:
    with serving(pipe) as one:
        yield one


def picture(size: int = 24, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8))


def png(image: Image.Image) -> tuple[str, bytes]:
    """As a file of a form."""
    file = BytesIO()
    image.save(file, "PNG")
    return "image.png", file.getvalue()


def holed(image: Image.Image) -> Image.Image:
    """The image with a transparent square."""
    mask = image.convert("RGBA")
    mask.paste((0, 0, 0, 0), (6, 6, 16, 16))
    return mask
