"""The page's server: on 127.0.0.1 alone, a thread for each request, the standard library's.

Other pages in the same browser must neither read nor answer: requests under another host's name are
refused (DNS rebinding), answers are taken only by POST, from this origin, with the secret that the
page was given, and nothing but its own script runs in the page.
"""

import hmac
import json
import os
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, Final

from unclip.evaluation.people.survey import Survey

PORT: Final = 8765
"""Where the page is, if nobody else is there."""
_MOST: Final = 4096  # bytes of an answer
_NONCE: Final = 64  # characters
_AGES: Final = 1e12  # seconds
_POLICY: Final = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; style-src 'nonce-{0}'; script-src 'nonce-{0}'"
)


class SurveyServer(ThreadingHTTPServer):
    """Serves a survey.

    Args:
        port: of 127.0.0.1; if left out, `PORT`, or one that is free.

    Raises:
        ValueError: the port is in use, or not to be had.
    """

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there it would share the port with another program

    def __init__(self, survey: Survey, port: int | None = None) -> None:
        self.survey = survey
        try:
            super().__init__(("127.0.0.1", PORT if port is None else port), _Handler)
        except OSError as error:
            if port is not None:
                raise ValueError(
                    f"port {port} cannot be used ({error.strerror}); leave --port out, and a free "
                    "one is taken"
                ) from None
            super().__init__(("127.0.0.1", 0), _Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is nobody's fault."""


class _RefusedError(Exception):
    """A request that is answered by a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: SurveyServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "unclip", ""
    timeout = 60  # seconds that a connection may be silent

    def do_GET(self) -> None:
        self._answer(self._read)

    def do_POST(self) -> None:
        self._answer(self._write)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed: the terminal is the summary's."""

    def _answer(self, work: Any) -> None:
        try:
            if self.headers.get("Host", "") not in self.server.hosts:
                raise _RefusedError(421, "this page is only served under its own address")
            work()
        except _RefusedError as refused:
            self._refuse(refused.status, str(refused))
        except ValueError as error:
            self._refuse(409, str(error))

    def _read(self) -> None:
        survey = self.server.survey
        path, _, query = self.path.partition("?")
        if path == "/":
            nonce = secrets.token_urlsafe(16)
            page = files("unclip.interfaces.survey").joinpath("page.html").read_text("utf-8")
            page = page.replace("{{nonce}}", nonce).replace("{{token}}", survey.secret)
            self._send(page.encode(), "text/html; charset=utf-8", _POLICY.format(nonce))
        elif path == "/question":
            number = int(query) if query.isascii() and query.isdigit() and len(query) < 9 else None
            self._send_json(survey.state(number))
        elif path.startswith("/image/"):
            try:
                self._send(survey.image(path.removeprefix("/image/")), "image/png")
            except ValueError as error:
                raise _RefusedError(404, str(error)) from None
        else:
            raise _RefusedError(404, "there is no such page")

    def _write(self) -> None:
        survey = self.server.survey
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in self.server.hosts:
            raise _RefusedError(403, "answers are taken from this page alone")
        token = self.headers.get("X-Token", "")
        if not hmac.compare_digest(token.encode(), survey.secret.encode()):
            raise _RefusedError(403, "answers need this page's token; load the page again")
        if self.path != "/answer":
            raise _RefusedError(404, "there is no such page")
        given = self._body()
        key, choice, nonce = (given.get(name) for name in ("key", "choice", "nonce"))
        seconds = given.get("seconds")
        texts = all(isinstance(one, str) for one in (key, choice, nonce))
        timed = isinstance(seconds, int | float) and abs(seconds) < _AGES  # nor NaN
        if not (texts and timed and 8 <= len(str(nonce)) <= _NONCE):
            raise _RefusedError(400, "an answer has a key, a choice, a nonce and seconds")
        self._send_json(survey.answer(str(key), str(choice), float(seconds or 0), str(nonce)))

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json" or not (
            length.isascii() and length.isdigit() and len(length) < 20
        ):
            raise _RefusedError(400, "an answer is JSON, of a length that is said")
        if int(length) > _MOST:
            raise _RefusedError(413, f"an answer has at most {_MOST} bytes")
        try:
            given = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise _RefusedError(400, "the answer is no JSON") from None
        if not isinstance(given, dict):
            raise _RefusedError(400, "the answer is no JSON object")
        return given

    def _send_json(self, value: dict[str, Any]) -> None:
        self._send(json.dumps(value).encode(), "application/json")

    def _refuse(self, status: int, sentence: str) -> None:
        self.close_connection = True  # what was sent may not have been read
        body = json.dumps({"error": sentence}).encode()
        self._send(body, "application/json", status=status)

    def _send(
        self, body: bytes, kind: str, policy: str = "default-src 'none'", status: int = 200
    ) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", policy),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
