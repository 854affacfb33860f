"""Around every request: its id, whose it is, what is refused before anything is read, the log, the
numbers."""

import json
import logging
import secrets
import time
import traceback
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unclip.checks import printable
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.keys import cookie_of
from unclip.interfaces.server.refusals import RefusedError, answer_to, refusal_of

LOG = logging.getLogger("unclip.serve")
OPEN = (
    "/health", "/ready", "/docs", "/openapi.json", "/", "/login", "/gradio_api/app_id",
)  # fmt: skip
"""Paths that need no key; the page at / asks for it itself, and by the last sees that the server
was started anew, which ends all sessions."""
_LEFT = 499  # the client closed its connection, as nginx calls it
_FILES = "/v1/images/files/"


class Guard:
    """An application with the desk's rules around it."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self.app, self.desk, self.there = app, desk, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        watched = _Watched(scope, send)
        self.there += 1
        try:
            self._check(scope)
            await self.app(scope, receive, watched)
        except ClientDisconnect:
            watched.error = None
            watched.status = _LEFT
        except Exception as error:
            watched.error = error
            if not watched.status:
                await answer_to(error)(scope, receive, watched)
        finally:
            self.there -= 1
            self._log(scope, watched)

    def _check(self, scope: Scope) -> None:
        """Refuse what needs no reading to be refused.

        Raises:
            RefusedError: 400, 401, 403, 421 or 503.
        """
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        desk, path = self.desk, scope["path"]
        state: dict[str, Any] = scope["state"]
        state["client"] = (scope.get("client") or ("nobody", 0))[0]
        host = headers.get(b"host", "")
        if desk.hosts and not desk.keys and host.rpartition(":")[0] not in desk.hosts:
            raise RefusedError(421, "this server answers under its own address alone")
        origin = headers.get(b"origin")
        if origin not in (None, f"{scope['scheme']}://{host}"):
            raise RefusedError(403, "pages of other sites may not ask here")
        query = scope.get("query_string", b"").lower()
        if b"key=" in query or b"token=" in query:
            raise RefusedError(
                400, "a key in an address ends in logs: send it as Authorization: Bearer KEY",
                code="key_in_url",
            )  # fmt: skip
        if desk.keys and path not in OPEN and not path.startswith(_FILES):
            client = desk.keys.client(headers.get(b"authorization", ""))
            client = client or desk.keys.session(cookie_of(scope["headers"]))
            if client is None:
                given = b"authorization" in headers
                raise RefusedError(
                    401, f"the key is {'wrong' if given else 'missing'}: send Authorization: "
                    "Bearer KEY", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
            state["client"] = client
        if self.there > desk.limits.requests:
            raise RefusedError(
                503, "too many requests at once", code="too_busy", headers={"Retry-After": "5"}
            )

    def _log(self, scope: Scope, watched: "_Watched") -> None:
        """A line of JSON, without captions unless they were asked for; and the numbers."""
        seconds = time.monotonic() - watched.began
        error = watched.error or scope.get("unclip.error")
        reason = None if error is None else refusal_of(error).code
        reason = "left" if watched.status == _LEFT else reason
        state = scope["state"]
        endpoint = state.get("endpoint", "other")
        self.desk.metrics.answered(endpoint, watched.status, seconds, reason)
        said: dict[str, Any] = {
            "event": "request", "id": state["id"], "method": scope["method"],
            "path": scope["path"][:200], "status": watched.status, "seconds": round(seconds, 4),
            "client": state.get("client"),
        }  # fmt: skip
        said |= {"user": state["user"]} if state.get("user") else {}
        said |= {"refused": str(error)} if error is not None and watched.status < 500 else {}
        if self.desk.log_prompts and "prompt" in state:
            said["prompt"] = state["prompt"]
        if not self.desk.log_prompts and "refused" in said:
            said["refused"] = reason or "invalid"  # a sentence may repeat a caption
        if error is not None and watched.status >= 500 and refusal_of(error).code == "server_error":
            said["fault"] = "".join(traceback.format_exception(error))[-4000:]
        level = logging.ERROR if watched.status >= 500 else logging.INFO
        LOG.log(level, json.dumps(said))


class _Watched:
    """`send` that adds the request's id to the answer, and remembers its status."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.send, self.status, self.began = send, 0, time.monotonic()
        self.error: BaseException | None = None
        self.id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})
        scope["state"] = {**scope["state"], "id": self.id}

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [
                (b"x-request-id", self.id.encode()), (b"x-content-type-options", b"nosniff"),
            ]  # fmt: skip
            message = {**message, "headers": [*message.get("headers", []), *headers]}
        await self.send(message)


class JSONLines(logging.Formatter):
    """A line of JSON for each record, whoever wrote it."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        try:
            said = json.loads(text) if record.name == LOG.name else {"message": printable(text)}
        except ValueError:
            said = {"message": printable(text)}
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = {"time": f"{when}.{record.msecs:03.0f}Z", "level": record.levelname.lower()}
        return json.dumps({**head, **said})
