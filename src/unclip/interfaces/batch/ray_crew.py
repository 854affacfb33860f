"""The processes of a Ray cluster, as an actor pool of Ray Data (extra `ray`).

Prompts travel through Ray; images do not: an actor writes its shard into the shared folder as any
other worker does, and tells how many images it has made. So nothing has to fit into Ray's object
store, an actor that dies is started again and makes its shard anew, and whatever ends the job, the
folder says what is left to do.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from unclip import __version__
from unclip.checks import printable
from unclip.device.ray_cluster import share_of
from unclip.interfaces.batch.crew import Advance, Errand, Looked
from unclip.interfaces.batch.job import Job, check_same, is_whole
from unclip.interfaces.batch.prompts import Row, read_prompts
from unclip.interfaces.batch.worker import Worker, by_shard
from unclip.storage.hub import hub_name, is_bundled

LOCAL = "local"
"""The address of a cluster that is begun on this machine, and ends with the command."""
_PATIENCE = 5.0  # seconds for a cluster to take a connection
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # a frame of HTTP/2 that sets nothing (RFC 9113, 6.5)
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS
_LONGEST = 40  # characters of a temporary folder that Ray's sockets still fit into


class RayCrew:
    """An actor pool.

    Args:
        size: actors at most; as many as the cluster has GPUs, or cores, if left out.
    """

    def __init__(self, errand: Errand, size: int | None) -> None:
        import ray

        mine = share_of(errand.model.device, cast(Any, ray).cluster_resources())
        self.each: dict[str, Any] = {"num_cpus": 1, "num_gpus": mine.gpus}
        self.size = size or mine.most
        model = replace(errand.model, device=mine.device)
        if model.model and hub_name(model.model) is None and not is_bundled(model.model):
            model = replace(model, model=os.path.abspath(model.model))
        marking = errand.marking
        if marking.c2pa is not None:
            marking = replace(marking, c2pa=marking.c2pa.absolute())
        folder = errand.folder.absolute()
        self.errand = replace(errand, model=model, marking=marking, folder=folder)

    def look(self) -> Looked:
        import ray

        found: Looked | str = ray.get(ray.remote(**self.each)(looked_at).remote(self.errand))
        if isinstance(found, str):
            raise ValueError(found)
        return found

    def work(self, job: Job, table: Path, shards: Sequence[int], advance: Advance) -> int:
        import ray.data

        items = [
            {"shard": shard, "rows": json.dumps([asdict(row) for row in rows])}
            for shard, rows in by_shard(job, read_prompts(table), shards)
        ]
        if not items:
            return 0
        _be_quiet()
        most = min(self.size, len(items))
        pool = ray.data.ActorPoolStrategy(
            min_size=1, max_size=most, initial_size=most, max_tasks_in_flight_per_actor=1
        )
        made = ray.data.from_items(items, override_num_blocks=len(items)).map(
            cast(Any, ShardMaker),  # Ray Data takes classes, and says functions
            fn_constructor_args=(self.errand, job, __version__),
            compute=pool,
            **self.each,
        )
        left = 0
        for told in made.iter_rows():
            if told["problem"]:
                raise ValueError(told["problem"])
            advance(told["images"])
            left += not told["mine"]
        return left


class ShardMaker:
    """An actor: opens the model once, and makes one shard after the other."""

    def __init__(self, errand: Errand, job: Job, version: str) -> None:
        self.problem = ""
        try:
            self.worker = _begun(errand, job, version)
        except ValueError as error:  # raised here, Ray would tell of a dead actor
            self.problem = f"{error} (on {socket.gethostname()})"

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        told = {"images": 0, "mine": True, "problem": self.problem}
        if self.problem:
            return told
        rows = [Row(**row) for row in json.loads(item["rows"])]
        told["images"] = len(rows) * self.worker.job.count
        try:
            done = is_whole(self.worker.folder, item["shard"])  # by an actor that died since
            told["mine"] = done or self.worker.write(item["shard"], rows)
        except ValueError as error:
            told["problem"] = f"{error} (on {socket.gethostname()})"
        return told


def looked_at(errand: Errand) -> Looked | str:
    """A task: what the model is where it works, or why it cannot be opened."""
    try:
        return errand.look(errand.open())
    except ValueError as error:
        return f"{error} (on {socket.gethostname()})"


def _begun(errand: Errand, job: Job, version: str) -> Worker:
    """The worker of an actor.

    Raises:
        ValueError: this machine has another unclip, model or folder than the others.
    """
    if version != __version__:
        raise ValueError(f"unclip is {__version__} here, and {version} where the job was begun")
    check_same(errand.folder, job)
    if errand.state() != job.model:
        raise ValueError("the model here is not the one that the job was begun with")
    if errand.marking.c2pa is not None and not errand.marking.c2pa.is_file():
        raise ValueError(f"{errand.marking.c2pa} is not here: put it where all machines see it")
    return errand.worker(errand.open(job.precision), job, lambda _: None)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Ray, at an address, while the block runs; where this program is connected already, as it is.

    Args:
        address: HOST:PORT of a cluster that this machine belongs to, "auto" for the one that runs
            here, or `LOCAL`.

    Raises:
        ValueError: Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unasked
    if address == LOCAL:  # on this machine's own address, where nobody else reaches it
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # as nice as the command itself
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))  # Ray's would stay in ~/.ray
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(
            f"--ray needs a package that is not there ({error.name}): pip install 'unclip[ray]'"
        ) from None
    if ray.is_initialized():
        yield
        return
    with ExitStack() as stack:
        more: dict[str, Any] = {}
        if address == LOCAL:
            place = tempfile.gettempdir()
            place = tempfile.mkdtemp("", "unclip-", place if len(place) <= _LONGEST else "/tmp")
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            more = {"_temp_dir": place, "include_dashboard": False}
        else:
            check_answers(address)
        stack.callback(ray.shutdown)
        _begin(address, more)
        yield


def check_answers(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself would try for minutes.

    Raises:
        ValueError: nobody does, or it is none.
    """
    wanted = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if wanted == "auto":
        return  # Ray looks among the processes of this machine
    host, _, port = wanted.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ValueError(
            f"--ray {printable(wanted)} is no address of a cluster: give HOST:PORT, auto or {LOCAL}"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PATIENCE) as talk:
            talk.sendall(_HELLO)  # gRPC is spoken over HTTP/2, which answers with its own frame
            kind = talk.recv(4, socket.MSG_WAITALL)[3:]
            if kind != _SETTINGS[3:4] and not os.environ.get("RAY_USE_TLS"):
                raise OSError("what listens there is something else")
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"no Ray cluster answers at {printable(wanted)}: {reason}; begin one by ray start "
            f"--head, or give --ray {LOCAL}"
        ) from None


def _begin(address: str, more: dict[str, Any]) -> None:
    import logging

    import ray

    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **more)
    except (ConnectionError, OSError, RuntimeError, ValueError, SystemExit) as error:
        if address == "auto" and isinstance(error, ConnectionError):
            raise ValueError(
                "no Ray cluster runs on this machine: begin one by ray start --head, or give "
                f"--ray {LOCAL}"
            ) from None
        said = (str(error).splitlines() or [""])[0]
        raise ValueError(f"Ray cannot be used at {printable(address)}: {printable(said)}") from None
    finally:
        with suppress(ValueError):  # in another thread than the main one
            signal.signal(signal.SIGTERM, handler)  # Ray has set its own


def _be_quiet() -> None:
    """Have Ray Data draw no bars of its own, and write no more than warnings."""
    import logging

    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
