"""A replica of the server on Ray Serve (`unclip.serving.ray_app`): no port, no signals."""

import ipaddress
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from unclip.checks import Notice
from unclip.interfaces.cli.commands.serve import Serve
from unclip.interfaces.cli.numbers import Count
from unclip.interfaces.cli.options import parse
from unclip.interfaces.server.app import application
from unclip.interfaces.server.bodies import Limits
from unclip.interfaces.server.desk import Kept
from unclip.interfaces.server.guard import LOG, Guard, JSONLines
from unclip.interfaces.server.keys import Keys
from unclip.interfaces.server.refusals import RefusedError, answer_to
from unclip.pipeline.requests import GPU_BATCH


@dataclass(frozen=True, kw_only=True)
class ReplicaOptions(Serve):
    """Serve a model by replicas on Ray Serve."""

    min_replicas: Count = 1
    """Replicas that are always there."""
    max_replicas: Count = 4
    """Replicas at most, a GPU or a core each."""

    def together(self, gpu: bool) -> int:
        """Images that a replica computes at once."""
        return self.batch_size or (GPU_BATCH if gpu else 1)

    @property
    def most_requests(self) -> int:
        """That a replica reads or refuses at once: far more than may wait, so that it is the
        replica that refuses."""
        return max(Limits().requests, 2 * (self.queue + self.together(gpu=True)))

    def limits(self) -> Limits:
        return replace(super().limits(), requests=self.most_requests)


class Replica:
    """What Ray Serve makes a replica of.

    Args:
        arguments: see `options`.
        device: that computes.
    """

    def __init__(self, arguments: Mapping[str, Any], device: str) -> None:
        options = replace(self.options(arguments), device=device)
        self.desk = options.desk(options.keys(), options.provenance())
        self.desk.kept = _NothingKept()
        _log()

    @classmethod
    def options(cls, arguments: Mapping[str, Any]) -> ReplicaOptions:
        """The flags of `unclip serve`, and how many replicas, by their names with underscores.

        Args:
            arguments: values, or text, as the command line of Ray Serve gives it.

        Raises:
            ValueError: one is unknown, or wrong.
        """
        words = []
        for name, value in arguments.items():
            if name in ("host", "port"):
                raise ValueError(f"{name} is Ray Serve's own: say it in its http_options")
            flag = name.replace("_", "-")
            if str(value).lower() in ("true", "false"):
                words.append(f"--{flag}" if str(value).lower() == "true" else f"--no-{flag}")
            elif value is not None:
                words.append(f"--{flag}={value}")
        return parse(ReplicaOptions, "serve", words)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Ray Serve's name for what it asks."""
        return Guard(_KeysOrThisMachine(application(self.desk), self.desk.keys), self.desk)

    def check_health(self) -> None:
        """Ray Serve's name too; it starts another replica where this raises."""
        if not self.desk.scheduler.alive:
            raise RuntimeError("nothing computes any more")


class _KeysOrThisMachine:
    """Without keys, refuses whoever comes from another machine: Ray Serve listens where it is told,
    which a replica does not learn."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self.keys and not _is_own(scope.get("client")):
            refused = RefusedError(
                401, "without api_key_file only the machine itself is served",
                code="invalid_api_key",
            )  # fmt: skip
            scope["unclip.error"] = refused
            await answer_to(refused)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _is_own(client: Any) -> bool:
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except (TypeError, ValueError, IndexError):
        return False


class _NothingKept(Kept):
    """Of several replicas only one would have an image that is asked for later."""

    def put(self, data: bytes, kind: str) -> str:
        raise RefusedError(
            400, "response_format must be b64_json where several replicas serve",
            param="response_format", code="invalid_value",
        )  # fmt: skip


def _log() -> None:
    """A line of JSON for each request on the replica's standard error stream, which Ray keeps."""
    warnings.simplefilter("ignore", Notice)
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines())
    LOG.handlers[:] = [handler]
    LOG.propagate = False
    LOG.setLevel(logging.INFO)
