"""Images as answers: encoded, listed, or streamed; and clients that go away while they wait."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeVar

from PIL import Image
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.fields import AskedImages
from unclip.interfaces.server.refusals import RefusedError, envelope, refusal_of
from unclip.outputs.images import text_chunks
from unclip.outputs.provenance import Provenance

T = TypeVar("T")


def encoded(
    image: Image.Image,
    asked: AskedImages,
    info: Mapping[str, Any],
    provenance: Provenance,
    kept: Image.Image | None = None,
) -> bytes:
    """The image in the format that was asked for, marked as generated; a PNG carries `info`.

    Args:
        kept: no mark changes the pixels that this one has too.
    """
    file = BytesIO()
    written, mark = provenance.marked(image, kept)
    notes = {**info, **mark}
    if asked.output_format == "png":
        written.save(file, "PNG", pnginfo=text_chunks(notes))
    else:
        quality = 100 if asked.output_compression is None else asked.output_compression
        written.save(file, asked.output_format.upper(), quality=quality)
    return provenance.signed(file.getvalue(), f"image/{asked.output_format}", notes)


def check_format(asked: AskedImages) -> None:
    """Refuse what does not go together."""
    if asked.output_compression is not None and asked.output_format == "png":
        raise RefusedError(
            400, "PNG loses nothing: output_compression is for jpeg and webp",
            param="output_compression", code="invalid_value",
        )  # fmt: skip


@dataclass(frozen=True)
class Made:
    """Images as they are answered."""

    images: Sequence[Image.Image]
    infos: Sequence[Mapping[str, Any]]
    more: Mapping[str, Any]
    """What the answer says beside them, under "unclip"."""
    kept: Image.Image | None = None
    """An image whose pixels, where they have them too, no mark changes."""


async def listed(desk: Desk, request: Request, asked: AskedImages, made: Made) -> JSONResponse:
    """OpenAI's answer: `data` with an image or address each."""
    data: list[dict[str, Any]] = []
    for image, info in zip(made.images, made.infos, strict=True):
        file = await asyncio.to_thread(encoded, image, asked, info, desk.provenance, made.kept)
        if asked.response_format == "url":
            name = desk.kept.put(file, f"image/{asked.output_format}")
            data.append({"url": f"{request.base_url}v1/images/files/{name}"})
        else:
            data.append({"b64_json": base64.b64encode(file).decode()})
    return JSONResponse({"created": int(time.time()), "data": data, **_facts(asked, made)})


def _facts(asked: AskedImages, made: Made) -> dict[str, Any]:
    size = "x".join(map(str, made.images[0].size))
    return {
        "background": "opaque", "output_format": asked.output_format, "size": size,
        "unclip": dict(made.more),
    }  # fmt: skip


def event(
    kind: str,
    asked: AskedImages,
    image: Image.Image,
    info: Mapping[str, Any],
    provenance: Provenance,
    kept: Image.Image | None = None,
    **more: Any,
) -> bytes:
    """A server-sent event with an image."""
    file = encoded(image, asked, info, provenance, kept)
    said = {
        "type": kind, "b64_json": base64.b64encode(file).decode(),
        "created_at": int(time.time()), "size": "x".join(map(str, image.size)), "quality": "auto",
        "background": "opaque", "output_format": asked.output_format, **more,
    }  # fmt: skip
    return f"event: {kind}\ndata: {json.dumps(said)}\n\n".encode()


UNCOUNTED = {
    "input_tokens": 0, "output_tokens": 0, "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}  # fmt: skip
"""Tokens are not counted: nothing is billed by them."""


class Events(Response):
    """Server-sent events; what ends them before the first one is a plain refusal.

    Args:
        events: whatever they hold is closed when the client goes away.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.raw_headers[[name for name, _ in self.raw_headers].index(b"content-length")]
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        async with aclosing(self.events) as events:  # type: ignore[type-var]
            try:
                while True:
                    part = await unless_gone(receive, anext(events, None))
                    if not begun:
                        await send({"type": "http.response.start", "status": self.status_code,
                                    "headers": self.raw_headers})  # fmt: skip
                        begun = True
                    if part is None:
                        break
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except ClientDisconnect:
                raise
            except Exception as error:
                if not begun:
                    raise
                scope["unclip.error"] = error
                said = json.dumps(envelope(refusal_of(error)))
                body = f"event: error\ndata: {said}\n\n".encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """What `work` gives, which is cancelled once the client closes its connection.

    Args:
        receive: of a request whose body has been read.

    Raises:
        ClientDisconnect: it has.
    """
    doing, going = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({doing, going}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientDisconnect
    finally:
        for task in (doing, going):
            task.cancel()
            with suppress(BaseException):
                await task


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
