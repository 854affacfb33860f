"""The training loop: one for every stage.

All randomness of step k (noise, timesteps, dropped conditions, dropout) comes from generators that
are seeded by (seed, k, rank), and the data order is a function of k as well. The state of a run is
therefore its weights, their average, the optimiser's moments and one integer, and a resumed run is
bit-identical to one that was never stopped.
"""

import contextlib
import hashlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor
from tqdm import tqdm

from unclip.batch import Batch, on_device
from unclip.device.precision import dtype_named, emulated, name_of
from unclip.stages.base import Stage
from unclip.training import checkpoint
from unclip.training.distribution import (
    Processes,
    agreed,
    average_gradients,
    averaged,
    same_weights,
)
from unclip.training.muon import Muon
from unclip.training.optimiser import EMA, build, learning_rate
from unclip.training.recipe import Optimiser, Training
from unclip.training.run import Run
from unclip.training.sam import sharpness_aware

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class NotFiniteError(ValueError):
    """The loss or a gradient is not a number any more."""


@dataclass
class Stopper:
    """Turns SIGINT and SIGTERM into a wish to stop after the step under way."""

    signal: int = 0
    _old: dict[int, object] = field(default_factory=dict)

    def __enter__(self) -> "Stopper":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number


def train(
    stage: Stage,
    training: Training,
    optimiser: Optimiser,
    batches: Callable[[int], Generator[Batch, None, None]],
    folder: Path,
    processes: Processes,
    publish: Callable[[], None],
    example: Batch | None = None,
    resume: bool = False,
    data: str = "",
    learned_from: Mapping[str, str] | None = None,
    begin: Callable[[], None] = lambda: None,
) -> int:
    """Train `stage.network` up to `training.steps`, or until a signal asks to stop.

    Args:
        stage: what is trained.
        training, optimiser: the recipe.
        batches: first step → this process's parts of the batches, `accumulation` parts a step.
        folder: where checkpoints, metrics and pictures go.
        processes: this process among the others.
        publish: called with the averaged weights in place, after every checkpoint.
        example: captioned images that previews are made for.
        resume: continue from the newest checkpoint in `folder`.
        data: fingerprint of the data, which a resumed run must share.
        learned_from: fingerprints of components, by name, which it must share too.
        begin: called once nothing stands in the way any more, before anything is written.

    Returns:
        0 when the run is complete, else the signal's number.

    Raises:
        ValueError: there is nothing to resume, or it does not fit; or the disk is full.
        NotFiniteError: a loss or gradient was NaN or infinite; the last checkpoint is from before.
    """
    network = stage.network.to(processes.device).train()
    same_weights(network, processes.world_size)
    average = EMA(network, training.ema)
    state = checkpoint.State(
        network, build(network, optimiser), average, data=data, optimiser_kind=optimiser.kind,
        learned_from=learned_from or {},
    )  # fmt: skip
    if resume:
        checkpoint.resume(state, folder / "checkpoints")
        if state.step > training.steps:
            raise ValueError(
                f"the run in {folder} is at step {state.step} already; training.steps is "
                f"{training.steps}, and must be {state.step} or more to resume it"
            )
    measured = training.precision == "auto" and state.precision
    dtype = dtype_named(measured or training.precision, processes.device)
    dtype = _DTYPES[agreed(_DTYPES.index(dtype), processes)]  # each process has measured
    state.precision = name_of(dtype)
    if isinstance(state.optimiser, Muon):
        state.optimiser.dtype = dtype
    begin()
    reported = folder if processes.main else None
    report = _Report(training, state.step, reported, dtype, processes.device)
    parts = batches(state.step)
    kept = -1

    def backward(batch: Batch, part: int) -> dict[str, Tensor]:
        generator = _seed(training.seed, state.step, part, processes)
        with torch.autocast(processes.device.type, dtype, enabled=dtype != torch.float32):
            losses = stage.loss(batch, generator)
        (losses["loss"] / training.accumulation).backward()  # type: ignore[no-untyped-call]
        return losses

    def keep() -> None:
        if processes.main:
            checkpoint.save(state, folder / "checkpoints")
            with average.in_place():
                publish()

    stopped = 0
    with Stopper() as stopper, contextlib.closing(report), contextlib.closing(parts):
        while state.step < training.steps:
            stopped = agreed(stopper.signal, processes)
            if stopped:
                break
            # ---- one training step -------------------------------------------------------------
            rate = learning_rate(optimiser, state.step, training.steps)
            for group in state.optimiser.param_groups:
                group["lr"] = rate * group["scale"]
            losses: dict[str, Tensor] = {}  # means over the parts
            for part in range(training.accumulation):
                descend = partial(backward, on_device(next(parts), processes.device), part)
                if optimiser.rho:
                    of_part = sharpness_aware(descend, network.parameters(), optimiser.rho)
                else:
                    of_part = descend()
                for key, value in of_part.items():
                    share = value.detach().float() / training.accumulation
                    losses[key] = losses[key] + share if key in losses else share
            average_gradients(network.parameters(), processes.world_size)
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), optimiser.clip)
            report.check(state.step, losses["loss"], norm)
            state.optimiser.step()
            state.optimiser.zero_grad()
            average.update(state.step)
            state.step += 1
            # ------------------------------------------------------------------------------------
            if report.is_due(state.step):
                means = averaged({**losses, "gradient_norm": norm}, processes)
                report.step(state.step, means, rate)
            if example and training.preview_every and state.step % training.preview_every == 0:
                with average.in_place():
                    report.preview(state.step, stage, on_device(example, processes.device))
            if state.step % training.checkpoint_every == 0:
                keep()
                kept = state.step
        if kept != state.step:  # or a complete run is resumed, which may lack its last publish
            keep()
    return stopped


class _Report:
    """Progress on the terminal, metrics in the run's folder, and the check for finite numbers."""

    def __init__(
        self,
        training: Training,
        first_step: int,
        folder: Path | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.training, self.dtype = training, dtype
        self.run = Run(folder, first_step) if folder else None
        self.bar = tqdm(
            total=training.steps, initial=first_step, unit="step", dynamic_ncols=True,
            disable=folder is None or not sys.stderr.isatty(),
        )  # fmt: skip
        self.last_step, self.last_time = first_step, time.monotonic()
        if folder:
            said = f"training from step {first_step} to {training.steps} in {name_of(dtype)}"
            if emulated(dtype, device):  # the run's own, or one that was asked for
                said += ", which this CPU emulates: --training.precision fp32 is many times faster"
            print(said, flush=True)

    def check(self, step: int, loss: Tensor, norm: Tensor) -> None:
        # The sum of both is finite exactly if both are: one look at the device, not two.
        if not math.isfinite(float(loss.detach() + norm)):
            raise NotFiniteError(
                f"the loss or its gradient is not finite at step {step}; the last checkpoint is "
                "kept: resume with a lower --optimiser.learning-rate, a longer "
                "--optimiser.warmup or --training.precision fp32"
            )

    def is_due(self, step: int) -> bool:
        """Count a step; whether it is one to be logged, which all processes agree on."""
        self.bar.update()
        return step % self.training.log_every == 0 or step == self.training.steps

    def step(self, step: int, values: dict[str, float], rate: float) -> None:
        """Log a step's values, and the speed if the clock has moved since the last log."""
        if self.run is None:
            return
        now = time.monotonic()
        took, steps = now - self.last_time, step - self.last_step
        values = {**values, "learning_rate": rate}
        shown = {"loss": values["loss"]}
        if took > 0:
            values["images_per_second"] = self.training.batch_size * steps / took
            shown["images/s"] = values["images_per_second"]
        self.run.scalars(step, values)
        self.bar.set_postfix({key: f"{value:.4g}" for key, value in shown.items()})
        if self.bar.disable:
            left = (self.training.steps - step) * took / max(1, steps)
            text = " ".join(f"{key} {value:.4g}" for key, value in values.items())
            print(f"step {step}/{self.training.steps} {text} left {left / 60:.1f} min", flush=True)
        self.last_step, self.last_time = step, now

    @torch.no_grad()
    def preview(self, step: int, stage: Stage, example: Batch) -> None:
        if self.run is None:
            return
        stage.network.eval()
        device = next(stage.network.parameters()).device
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            rows = stage.preview(example, torch.Generator(device).manual_seed(0))
        stage.network.train()
        if rows is not None:
            self.run.pictures(step, rows)

    def close(self) -> None:
        self.bar.close()
        if self.run is not None:
            self.run.close()


def _seed(seed: int, step: int, part: int, processes: Processes) -> torch.Generator:
    """Seed the global stream (dropout) and return one for noise, from (seed, step, part, rank)."""
    name = f"{seed}/{step}/{part}/{processes.rank}".encode()
    mixed = int.from_bytes(hashlib.blake2b(name, digest_size=7).digest())
    torch.manual_seed(mixed)
    return torch.Generator(processes.device).manual_seed(mixed + 1)
