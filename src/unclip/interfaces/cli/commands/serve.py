"""`unclip serve`: the images API, until a signal."""

import ipaddress
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from unclip.checks import shown
from unclip.interfaces.cli.marking import MarkingOptions
from unclip.interfaces.cli.numbers import BatchSize, whole
from unclip.interfaces.cli.options import ModelOptions, parse

if TYPE_CHECKING:
    from fastapi import FastAPI

    from unclip.interfaces.server.bodies import Limits
    from unclip.interfaces.server.desk import Desk, Other
    from unclip.interfaces.server.keys import Keys
    from unclip.outputs.provenance import Provenance

_PAGE = "The page for people is there too, at /"
_NO_PAGE = "There is no page for people, as gradio is not there: pip install 'unclip[web]'"
_NEEDED = "unclip serve needs packages that are not there ({}): pip install 'unclip[serve]'"


@dataclass(frozen=True, kw_only=True)
class Serve(ModelOptions, MarkingOptions):
    """Serve a model over HTTP: OpenAI's images API, and this model's own.

    SIGTERM and Ctrl-C finish what runs, and refuse the rest.
    """

    host: str = "127.0.0.1"
    """Address to listen at; any but this machine's own needs --api-key-file."""
    port: Annotated[int, whole(0, 65535)] = 8000
    """Port to listen at; 0 is a free one."""
    api_key_file: Path | None = None
    """File of keys, one a line, perhaps with a name before it; without it everyone is served."""
    queue: Annotated[int, whole(1, 10_000)] = 64
    """Requests that may wait."""
    batch_size: BatchSize | None = None
    """Images computed at once, of whichever requests; if left out, 16 on a GPU and 1 on a CPU,
    where an image is then its seed's bit for bit."""
    timeout: Annotated[int, whole(1, 86_400)] = 600
    """Seconds until a request must be done."""
    max_megabytes: Annotated[int, whole(1, 1024)] = 32
    """Size of a request's body at most."""
    max_megapixels: Annotated[int, whole(1, 178)] = 16
    """Size of an image that is opened at most."""
    name: str = ""
    """Name of the model for clients; that of its folder if left out."""
    compare: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Another model, named as --model is, that the page may compare with; can be repeated."""
    log_prompts: bool = False
    """Captions in the log."""

    def others(self) -> "dict[str, Other]":
        """Models that images can be compared with: those that were named, and the bundled one.

        Raises:
            ValueError: there is no such folder; it is the model that is served.
        """
        from unclip.interfaces.server.desk import Other
        from unclip.storage.folder import ModelFolder

        for one in self.compare:
            if one == self.model:
                raise ValueError(f"--compare {shown(one)} is the model that is served")
            if not one.startswith("hf:"):
                ModelFolder(Path(one)).index()

        own = replace(self, revision=None, variant=None)  # those are of --model
        named = {one: Other(one, replace(own, model=one).open) for one in self.compare}
        bundled = {"bundled": Other(None, replace(own, model=None).open)}
        return named | (bundled if self.model else {})

    def keys(self) -> "Keys":
        """Those that are asked for.

        Raises:
            ValueError: the file holds none.
        """
        from unclip.interfaces.server.keys import Keys, read_keys

        return read_keys(self.api_key_file) if self.api_key_file else Keys()

    def desk(self, keys: "Keys", provenance: "Provenance", **more: Any) -> "Desk":
        """What a server, or a replica of one, has in common with its routes; opens the model.

        Args:
            more: of `Desk`.
        """
        from unclip.interfaces.server.desk import Desk

        return Desk(
            self.open(), self.name or _name(self.model), self.model, self.queue, self.batch_size,
            self.limits(), keys, self.log_prompts, provenance=provenance, **more,
        )  # fmt: skip

    def limits(self) -> "Limits":
        """Of requests."""
        from unclip.interfaces.server.bodies import Limits

        return Limits(
            body=self.max_megabytes * 2**20, pixels=self.max_megapixels * 2**20,
            seconds=self.timeout,
        )  # fmt: skip


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip serve` say, and give the exit code."""
    options = parse(Serve, "serve", arguments)
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(_NEEDED.format(error.name)) from None
    import asyncio

    from unclip.interfaces.server.app import application
    from unclip.interfaces.server.serving import Server, listening, log_to

    keys, own = options.keys(), _is_own(options.host)
    if not (own or keys):
        raise ValueError(
            f"{options.host} is open to other machines: give --api-key-file, or --host 127.0.0.1"
        )
    provenance, others = options.provenance(), options.others()
    sock = listening(options.host, options.port)
    hosts = frozenset({"127.0.0.1", "localhost", "[::1]", options.host} if own else ())
    desk = options.desk(keys, provenance, hosts=hosts, others=others)
    app = application(desk)
    paged = _with_page(app, desk)
    log_to()

    def ready(address: str) -> None:
        print(f"{desk.name} is served at {address} (what can be asked: {address}/docs)")
        print(_PAGE if paged else _NO_PAGE)
        sys.stdout.flush()

    asyncio.run(Server(desk, sock, ready, app).serve())
    return 0


def _with_page(app: "FastAPI", desk: "Desk") -> bool:
    """Put the page for people on the application; False where its packages are not there."""
    try:
        import gradio  # noqa: F401
    except ImportError:
        return False
    from unclip.interfaces.web.mounting import mount

    mount(app, desk)
    return True


def _is_own(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name(model: str | None) -> str:
    return "unclip" if model is None else model.rstrip("/").rpartition("/")[2] or "unclip"
