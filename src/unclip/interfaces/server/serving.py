"""The server's life: a port, requests until a signal, then what runs is finished."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from unclip.checks import Notice
from unclip.interfaces.server.app import application, guarded
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.guard import LOG, JSONLines

_LAST = 10  # seconds in which the last answers must have left


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        ValueError: the address is taken, or is not this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(128)
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"cannot serve at {host}, port {port}: {reason}; give another one"
        ) from None
    return sock


class _Impatient(H11Protocol):
    """Closes a connection whose request's head does not come: uvicorn would wait for ever."""

    HEAD_SECONDS = 30.0
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._mind()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._mind()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._waiting is not None:
            self._waiting.cancel()

    def _mind(self) -> None:
        """Have a timer run while no request is there."""
        idle = self.cycle is None or self.cycle.response_complete
        if self._waiting is not None and not idle:
            self._waiting.cancel()
            self._waiting = None
        elif self._waiting is None and idle:
            loop = asyncio.get_running_loop()
            self._waiting = loop.call_later(self.HEAD_SECONDS, self.transport.close)


class Server(uvicorn.Server):
    """Serves a desk from a socket; a signal has it finish what runs, and end.

    Args:
        ready: is called with the address once requests are taken, and signals minded.
        app: the desk's `application`, where more is mounted on it.
    """

    def __init__(
        self,
        desk: Desk,
        sock: socket.socket,
        ready: Callable[[str], None] | None = None,
        app: FastAPI | None = None,
    ) -> None:
        self.desk, self.sock, self.ready = desk, sock, ready
        self._signalled = 0
        config = uvicorn.Config(
            guarded(app or application(desk), desk), log_config=None, access_log=False,
            lifespan="off", http=_Impatient, ws="none", timeout_graceful_shutdown=_LAST,
            server_header=False, date_header=True, h11_max_incomplete_event_size=32 * 1024,
        )  # fmt: skip
        super().__init__(config)

    @property
    def address(self) -> str:
        """Where it is."""
        host, port = self.sock.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Until `stop`, or a signal to the main thread."""
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._loop.add_signal_handler(number, self._signal)
        await super().serve(sockets or [self.sock])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, and say so."""
        await super().startup(sockets)
        if self.ready is not None and self.started:
            self.ready(self.address)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are handled by `serve`: uvicorn's own would not let what runs finish first."""
        yield

    def stop(self) -> None:
        """From any thread: as SIGTERM."""
        self._loop.call_soon_threadsafe(self._signal)

    def _signal(self) -> None:
        self._signalled += 1
        if self._signalled > 1:  # the second time means now
            self.should_exit = self.force_exit = True
            return
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        LOG.info('{"event": "shutting down"}')
        await self.desk.scheduler.close()
        for end in self.desk.closing:
            end()
        await asyncio.sleep(0.2)  # the last answers, and refusals, are written
        self.should_exit = True


def log_to(stream: Any = None) -> None:
    """Have everything that is logged written as lines of JSON, and no notices, which repeat words
    of captions: those of a request are in its answer."""
    warnings.simplefilter("ignore", Notice)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    LOG.setLevel(logging.INFO)
