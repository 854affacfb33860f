"""The page in the server: what of gradio can be asked, a login where there are keys, its end."""

import asyncio
import os
import tempfile
import time
import weakref
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.refusals import RefusedError
from unclip.interfaces.web.login import login, who
from unclip.interfaces.web.page import Page, look

_PAGE = frozenset({"/", "/theme.css", "/config", "/favicon.ico", "/manifest.json"})
_FOLDERS = (
    "/static/", "/assets/", "/svelte/", "/gradio_api/queue/", "/gradio_api/file=",
    "/gradio_api/heartbeat/", "/gradio_api/run/",
)  # fmt: skip
_CALLS = frozenset(
    f"/gradio_api/{name}"
    for name in ("upload", "upload_progress", "reset", "cancel", "info", "startup-events",
                 "app_id")  # asked until a server that went is there again
)  # fmt: skip
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer"),
]  # fmt: skip


def mount(app: FastAPI, desk: Desk) -> None:
    """Put the page at `/` of an application, before it is guarded."""
    folder = tempfile.TemporaryDirectory(prefix="unclip-page-", ignore_cleanup_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = folder.name  # where gradio puts what people give
    inner = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = Page(desk, Path(folder.name))
    gr.mount_gradio_app(
        inner, page.blocks, "/", footer_links=[], run_history=False, ssr_mode=False,
        max_file_size=desk.limits.body, show_error=False, **look(),
    )  # fmt: skip
    served = _Served(inner, page)
    weakref.finalize(served, folder.cleanup)
    desk.closing.append(served.close)
    app.add_route("/login", login, methods=["GET", "POST"])
    app.mount("/", served)


class _Served:
    """gradio's application with limits around it.

    Args:
        app: that it is mounted in.
    """

    def __init__(self, app: FastAPI, page: Page) -> None:
        self.app, self.page = app, page
        self._ready: asyncio.Event | None = None
        self._end = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        known = path in _PAGE or path in _CALLS or path.startswith(_FOLDERS)
        if scope["type"] != "http" or not known:
            raise HTTPException(404)
        scope["state"]["endpoint"] = "page"
        desk = self.page.desk
        if path == "/" and desk.keys and who(scope, desk) is None:
            asks = await login(Request(scope, receive))
            await asks(scope, receive, send)
            return
        await self._started()
        limited = _Limited(receive, desk)
        limited.check(scope)

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        await self.app(scope, limited, headed)

    async def _started(self) -> None:
        """Have gradio's own queue run, which the server's life does not start."""
        if self._ready is None:
            self._ready = asyncio.Event()
            self._life = asyncio.ensure_future(self._lived(self._ready))
        await self._ready.wait()

    async def _lived(self, ready: asyncio.Event) -> None:
        async with self.app.router.lifespan_context(self.app):
            ready.set()
            await self._end.wait()

    def close(self) -> None:
        """End what browsers hold open, from the event loop."""
        self._end.set()
        gradio: Any = self.page.blocks.app
        gradio.stop_event.set()


class _Limited:
    """A body that is neither too long nor too slow."""

    def __init__(self, receive: Receive, desk: Desk) -> None:
        self.receive, self.limits = receive, desk.limits
        self._come, self._whole = 0, False
        self._until = time.monotonic() + desk.limits.body_seconds

    def check(self, scope: Scope) -> None:
        """Refuse what says of itself that it is too long."""
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > self._most):
            raise self._too_long()

    @property
    def _most(self) -> int:
        return self.limits.body + 2**20  # a form's own words

    def _too_long(self) -> RefusedError:
        return RefusedError(
            413, f"the body is longer than {self.limits.body:,} bytes", code="too_large",
            headers={"Connection": "close"},
        )  # fmt: skip

    async def __call__(self) -> MutableMapping[str, Any]:
        if self._whole:
            return await self.receive()
        try:
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + max(0.0, self._until - time.monotonic())
            ):
                message = await self.receive()
        except TimeoutError:
            raise RefusedError(408, "the body came too slowly", code="timeout") from None
        self._come += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._come > self._most:
            raise self._too_long()
        return message
