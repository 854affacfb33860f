"""`unclip data index`: where every image of tar shards lies, written down once."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from unclip.interfaces.cli.numbers import whole
from unclip.interfaces.cli.options import parse
from unclip.interfaces.cli.streams import progress_bar

if TYPE_CHECKING:
    from unclip.data.shard_index import Index


@dataclass(frozen=True)
class IndexShards:
    """Index tar shards; those whose index is good are left alone."""

    source: tyro.conf.Positional[str]
    """Name of the data, such as wds:shards/{000..099}.tar or wds:FOLDER."""
    workers: Annotated[int, whole(1, 256)] = os.cpu_count() or 1
    """Number of processes that read shards."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip data index` say, and give the exit code."""
    options = parse(IndexShards, "data index", arguments)
    from unclip.checks import printable
    from unclip.data.captions import Report
    from unclip.data.registry import parse as kind_of
    from unclip.data.shard_index import forget_gone
    from unclip.data.webdataset import find_shards, merge

    kind, place = kind_of(options.source)
    if kind != "wds":
        raise ValueError(f"{printable(options.source)} needs no index; shards are named wds:PLACE")
    if Path(place).is_dir():
        forget_gone(Path(place))
    shards = find_shards(place)
    started = time.perf_counter()
    indices = []
    with progress_bar(len(shards)) as bar:
        for index in _indexed(shards, min(options.workers, len(shards))):
            indices.append(index)
            bar.update()
    report = Report(options.source)
    merge(report, indices)
    report.usable = sum(len(index.columns) for index in indices)
    report.captions = sum(len(index.columns.texts) for index in indices)
    print(report)
    print(f"{len(shards):,} shards indexed in {time.perf_counter() - started:.1f} s")
    return 0


def _indexed(shards: Sequence[Path], workers: int) -> "Iterator[Index]":
    """The index of each, in their order, made by several processes."""
    if workers < 2:
        yield from map(_good, shards)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            for shard, _ in zip(shards, pool.map(_make, shards), strict=True):
                yield _good(shard)
        except BrokenProcessPool:
            raise ValueError(
                "a process that indexed shards was killed, perhaps for memory: what is indexed "
                "stays; give the command again, with --workers 1 if need be"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _make(shard: Path) -> None:
    _good(shard)


def _good(shard: Path) -> "Index":
    """The shard's index as it is now, whatever was noted of it before."""
    from unclip.data.shard_index import load, renew

    try:
        index = load(shard)
    except ValueError:  # changed since it was indexed
        index = None
    return index or renew(shard)
