"""`unclip batch`: images for a table of prompts, by any number of processes and machines."""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from unclip.checks import many, printable
from unclip.device.processes import this_process
from unclip.interfaces.cli.marking import MarkingOptions
from unclip.interfaces.cli.numbers import Count
from unclip.interfaces.cli.options import PromptOptions, parse
from unclip.interfaces.cli.outputs import check_folder
from unclip.interfaces.cli.streams import progress_bar

if TYPE_CHECKING:
    from unclip.interfaces.batch.crew import Crew, Errand
    from unclip.words import Vocabulary

FAILED = 3
"""Exit code: prompts came to nothing; they are listed, and the same command tries them again."""


@dataclass(frozen=True, kw_only=True)
class Batch(PromptOptions, MarkingOptions):
    """Make images for every prompt of a table, in shards that training reads (--data wds:DIR).

    The same command goes on after it was stopped, and tries again what failed. Several processes,
    on machines that share the folder, work together: give each --worker K/N, or use torchrun.
    """

    prompts: tyro.conf.Positional[Path]
    """A .jsonl, .csv or .parquet file with a column prompt, text or caption; seed and id if you
    like."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The job's own folder."""
    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 1
    """Images for each prompt."""
    prompts_per_shard: Count = 100
    """Prompts whose images are one file; a process that is killed loses one shard's work."""
    worker: str = ""
    """K/N: this process makes shards K, K + N, K + 2N, … (K from 0 on)."""
    ray: str = ""
    """Address of a Ray cluster whose processes make the images, HOST:PORT or auto; local begins one
    of this machine's cores or GPUs. Needs the extra ray."""
    ray_workers: Count | None = None
    """Processes on the Ray cluster; if left out, as many as it has GPUs, or cores."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip batch` say, and give the exit code."""
    options = parse(Batch, "batch", arguments)
    started = time.perf_counter()
    from unclip.device.names import usual
    from unclip.interfaces.batch.crew import Errand
    from unclip.interfaces.batch.job import Job, claim, failed_file, failures, is_whole
    from unclip.interfaces.batch.prompts import counted

    number, workers = _share(options.worker)
    if options.ray and workers > 1:
        raise ValueError("--ray shares the work out itself: leave out --worker, or torchrun")
    if options.ray_workers and not options.ray:
        raise ValueError("--ray-workers are those of a cluster: give --ray ADDRESS")
    check_folder(options.output)
    provenance, settings = options.provenance(), options.settings()
    rows, digest = counted(options.prompts)
    signed = f"{provenance.watermark}, {provenance.identity is not None}, {options.c2pa_prompt}"
    wanted = Job(
        digest, rows, options.n, options.seed, options.prompts_per_shard, provenance=signed,
        engine=options.engine, settings=settings.changed(),
    )  # fmt: skip
    with _crew(options, Errand.of(options, settings)) as crew:
        model = crew.look()
        wanted = replace(wanted, model=model.state, precision=model.precision)
        _say_what_is_unknown(options.prompts, model.vocabulary)
        job = claim(options.output, wanted, measured=usual(options.precision) == "auto")
        mine = range(number, job.shards, workers)
        todo = [shard for shard in mine if not is_whole(options.output, shard)]
        total = sum(len(job.rows_of(shard)) for shard in todo) * job.count
        with progress_bar(total) as bar:
            left = crew.work(job, options.prompts, todo, bar.update)
        again = [shard for shard in mine if failed_file(options.output, shard).is_file()]
        crew.work(job, options.prompts, again, lambda _: None)
    took = time.perf_counter() - started
    there = f", {len(mine) - len(todo):,} were there" if len(todo) < len(mine) else ""
    who = "Ray" if options.ray else f"worker {number} of {workers}"
    others = f", {left:,} left to other processes" if left else ""
    print(f"{who}: {many(len(todo) - left, 'shards')} written in {took:.1f} s{there}{others}")
    where = printable(str(options.output))
    if bad := failures(job, options.output):
        print(
            f"{len(bad):,} of {many(job.rows, 'prompts')} came to nothing ({printable(bad[0])}"
            f"{', …' if len(set(bad)) > 1 else ''}): {where}/failed lists them, and the same "
            "command tries them again",
            file=sys.stderr,
        )
    whole = sum(is_whole(options.output, shard) for shard in range(job.shards))
    print(
        f"the job: {whole:,} of {many(job.shards, 'shards')} complete, "
        f"{many(job.rows, 'prompts')}: {where}"
    )
    if whole == job.shards:
        print(f"train with it: unclip train all --data wds:{where}")
    return FAILED if bad else 0


def _say_what_is_unknown(table: Path, vocabulary: "Vocabulary | None") -> None:
    """Of all prompts at once, what `unclip generate` says of one."""
    if vocabulary is None:
        return
    from unclip.interfaces.batch.prompts import read_prompts

    prompts = (row.prompt for row in read_prompts(table) if not row.problem)
    total, count, words = vocabulary.unknown_in(prompts)
    if count:
        print(
            f"{count:,} of {many(total, 'prompts')} have unknown words: {vocabulary.advice(words)}",
            file=sys.stderr,
        )


@contextmanager
def _crew(options: Batch, errand: "Errand") -> "Iterator[Crew]":
    """Who makes the images."""
    if not options.ray:
        from unclip.interfaces.batch.crew import Alone

        yield Alone(errand)
        return
    from unclip.interfaces.batch.ray_crew import RayCrew, connected

    with connected(options.ray):
        yield RayCrew(errand, options.ray_workers)


def _share(worker: str) -> tuple[int, int]:
    """The number of this process, and how many there are: as --worker or torchrun says, else 0, 1.

    Raises:
        ValueError: it is not K/N with K below N.
    """
    if not worker:
        return this_process()
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", worker, re.ASCII)
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError(f"--worker {worker!r} is not K/N, such as 0/2 and 1/2 of two processes")
    return int(found[1]), int(found[2])
