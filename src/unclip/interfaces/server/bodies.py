"""What a request sends, read with limits: JSON, or a form with files."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from unclip.interfaces.server.refusals import RefusedError


@dataclass(frozen=True)
class Limits:
    """How much a request may send, and ask for.

    Args:
        body: bytes.
        body_seconds: in which all of it must have come.
        pixels: of an image that is opened.
        files: images of a request.
        seconds: until a request must be done.
        requests: that are read or waited for at once.
    """

    body: int = 32 * 2**20
    body_seconds: float = 60
    pixels: int = 2**24
    files: int = 16
    seconds: float = 600
    requests: int = 512


class _InMemory(MultiPartParser):
    """Keeps files in memory, which the body's limit bounds: nothing is written to a disk."""

    spool_max_size = 2**40
    ended = False

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None:
            try:
                part.data.decode()
            except UnicodeDecodeError:
                raise MultiPartException("a field is not UTF-8") from None
        super().on_part_end()

    def on_end(self) -> None:
        self.ended = True
        super().on_end()


@dataclass(frozen=True)
class Body:
    """What was sent.

    Attributes:
        values: fields by name; of forms texts, or lists of texts.
        files: the bytes of files by the names of their fields.
        form: whether it was a form.
    """

    values: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)
    form: bool = False


async def read_body(request: Request, limits: Limits) -> Body:
    """The body, whole.

    Raises:
        RefusedError: 400, 408, 413 or 415: it is too long, too slow, of another kind, or damaged.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    length = request.headers.get("content-length", "")
    if length.isdigit() and len(length) < 20 and int(length) > limits.body:
        raise _too_long(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            if kind == "multipart/form-data":
                return await _form(request, limits)
            if kind in ("application/json", ""):
                return _json(b"".join([part async for part in _limited(request, limits)]))
    except TimeoutError:
        raise RefusedError(
            408, f"the body did not come within {limits.body_seconds:g} s", code="timeout",
            headers={"Connection": "close"},
        ) from None  # fmt: skip
    raise RefusedError(415, "send application/json, or multipart/form-data where there are files")


async def _limited(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body's parts as they come; RefusedError once they are more than may be."""
    come = 0
    async for part in request.stream():
        come += len(part)
        if come > limits.body:
            raise _too_long(limits)
        yield part


def _too_long(limits: Limits) -> RefusedError:
    return RefusedError(
        413, f"the body is longer than {limits.body:,} bytes", code="too_large",
        headers={"Connection": "close"},
    )  # fmt: skip


def _json(data: bytes) -> Body:
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is no JSON", code="invalid_json") from None
    if not isinstance(given, dict):
        raise RefusedError(400, "the body must be a JSON object", code="invalid_json")
    return Body(given)


async def _form(request: Request, limits: Limits) -> Body:
    parser = _InMemory(
        request.headers, _limited(request, limits), max_files=limits.files, max_fields=200,
        max_part_size=limits.body,
    )  # fmt: skip
    try:
        form = await parser.parse()
    except (RefusedError, ClientDisconnect):
        raise
    except MultiPartException as error:
        raise RefusedError(400, f"the form is damaged: {error.message}") from None
    except (KeyError, ValueError, AssertionError):
        raise RefusedError(400, "the form is damaged") from None
    if not parser.ended:
        raise RefusedError(400, "the form is damaged: its last part has no end")
    body = Body(form=True)
    for name, value in form.multi_items():
        plain = name.removesuffix("[]")
        if isinstance(value, UploadFile):
            body.files.setdefault(plain, []).append(await value.read())
        elif name != plain:
            body.values.setdefault(plain, []).append(value)
        elif plain in body.values:
            raise RefusedError(400, f"{plain[:100]} was given twice", param=plain[:100])
        else:
            body.values[plain] = value
    return body
