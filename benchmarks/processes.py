"""Processes that share a run: replicas (DDP) and shards (FSDP2) against gradients averaged by hand.

python benchmarks/processes.py [--stages clip prior decoder] [--batch 32] [--rounds 15]
python benchmarks/processes.py --memory prior --size medium

By hand is what unclip did before: all gradients in one tensor, exchanged after the backward pass.
Every way trains the same stage beside the bundled model, on the same images, in the same processes;
they take turns, and the ratio is that of steps that followed each other. With `--memory` each way
has two new processes, which say what they hold after a few steps, and what they held at most.
On one core a process: OMP_NUM_THREADS=1.
"""

import argparse
import itertools
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common import RESULTS, ROOT, machine, record, synchronise
from unclip.device.precision import device_named
from unclip.stages.base import Stage
from unclip.stages.catalogue import STAGES
from unclip.stages.spec import parse_recipe
from unclip.storage.folder import bundled
from unclip.training.job import Folders, build_job
from unclip.training.loop import Trainer
from unclip.training.parallel import Parallel, Trained, start_parallel
from unclip.training.replicated import Replicated

PROCESSES = 2


class ByHand(Replicated):
    """The averaging of before: one exchange of all gradients, after the backward pass."""

    def prepare(self, stage: Stage, dtype: torch.dtype) -> Trained:
        stage.network.to(self.device)
        self.spread(stage.network)
        return Trained(stage)

    def clip_gradients(self, network: nn.Module, largest: float) -> Tensor:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world_size
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return super().clip_gradients(network, largest)


WAYS = ("by hand", "replicas", "shards")


def way_of(name: str, device: str) -> Parallel:
    here = start_parallel(device, shard=name == "shards")
    return ByHand(here.rank, here.world_size, here.device) if name == "by hand" else here


def trainer_of(stage: str, options: Any, parallel: Parallel) -> Trainer:
    """A stage that is trained on the same images for ever."""
    network: dict[str, Any] = {"size": options.size}
    if stage == "prior":
        network["statistics"] = options.batch
    recipe = parse_recipe(
        STAGES[stage],
        {
            "network": network,
            "data": {"source": "emoji:shapes", "size": 32, "workers": 0},
            "training": {
                "batch_size": options.batch, "precision": options.precision, "validate_every": 0,
                "checkpoint_activations": options.checkpoint_activations,
            },
        },
        "the benchmark",
    )  # fmt: skip
    job = build_job(STAGES[stage], recipe, Folders(bundled("model"), Path("none")), parallel)
    trainer = Trainer(job)
    trainer.parts = itertools.repeat(next(trainer.parts))  # type: ignore[assignment]
    return trainer


def seconds(trainer: Trainer, steps: int) -> float:
    """Of a step, in the process that is last."""
    trainer.parallel.barrier()
    began = time.perf_counter()
    for _ in range(steps):
        trainer.step()
    synchronise(trainer.parallel.device)
    trainer.parallel.barrier()
    return (time.perf_counter() - began) / steps


def timed(stage: str, options: Any) -> dict[str, list[float]]:
    """Seconds of a step by each way, a row a round."""
    trainers = {name: trainer_of(stage, options, way_of(name, options.device)) for name in WAYS}
    for trainer in trainers.values():
        seconds(trainer, 2)
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(options.rounds):
        turn = number % len(WAYS)
        for name in WAYS[turn:] + WAYS[:turn]:
            found[name].append(seconds(trainers[name], options.steps))
    return found


def held(device: torch.device) -> tuple[int, int]:
    """Bytes that this process holds, and has held at most."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize(), most


def in_processes(work: Any, *arguments: Any) -> Any:
    """What `work(*arguments)` returns in the first of two new processes."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    port = str(20_000 + os.getpid() % 10_000)
    running = [
        context.Process(target=_work, args=(rank, port, answers, work, arguments))
        for rank in range(PROCESSES)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    if any(process.exitcode for process in running):
        raise SystemExit("a process failed")
    return answers.get()


def _work(rank: int, port: str, answers: Any, work: Any, arguments: Iterable[Any]) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(PROCESSES),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
    )  # fmt: skip
    answer = work(*arguments)
    if rank == 0:
        answers.put(answer)


def measure_memory(name: str, options: Any) -> tuple[int, int, int, int]:
    """Bytes before there is a network, after some steps, and at most; and its parameters."""
    parallel = way_of(name, options.device)
    before, _ = held(parallel.device)
    trainer = trainer_of(options.memory, options, parallel)
    seconds(trainer, 3)
    now, most = held(parallel.device)
    return before, now, most, sum(p.numel() for p in trainer.network.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", default=["clip", "prior", "decoder"])
    parser.add_argument("--memory", help="measure the memory of this stage, and no time")
    parser.add_argument("--size", default="small")
    parser.add_argument("--batch", type=int, default=32, help="images of both processes")
    parser.add_argument("--steps", type=int, default=2, help="of each turn")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = device_named(options.device)
    known = machine(device)
    print(f"{known['gpu'] or known['cpu']}, {PROCESSES} processes of {known['threads']} threads")
    given = {key: value for key, value in vars(options).items() if key != "device"}
    if options.memory:
        # What is freed goes back at once, or this would measure what the C library keeps of it.
        os.environ |= {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
        memory = {name: in_processes(measure_memory, name, options) for name in WAYS}
        print(f"{options.memory}: {memory['by hand'][3] / 1e6:,.1f} M parameters")
        print("| way | MiB of a process for training | at most |\n|---|---:|---:|")
        for name, (before, now, most, _) in memory.items():
            print(f"| {name} | {(now - before) / 2**20:,.0f} | {(most - before) / 2**20:,.0f} |")
        record(device, part="processes' memory", **given, rows=memory)
    else:
        print("| stage | by hand, ms a step | replicas | shards |\n|---|---:|---:|---:|")
        rows = {}
        for stage in options.stages:
            rows[stage] = found = in_processes(timed, stage, options)
            said = [f"{1e3 * statistics.median(found['by hand']):,.1f}"]
            for name in WAYS[1:]:
                pairs = zip(found[name], found["by hand"], strict=True)
                ratios = sorted(mine / theirs for mine, theirs in pairs)
                low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
                said.append(f"{statistics.median(ratios):.2f} × ({low:.2f} to {high:.2f})")
            print(f"| {stage} | {' | '.join(said)} |", flush=True)
        record(device, part="processes", **given, rows=rows)
    print(f"added to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
