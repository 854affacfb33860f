"""Progress on the terminal, and metrics and pictures in the run's folder."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from unclip.device.memory import peak_memory
from unclip.device.precision import emulated, name_of
from unclip.stages.recipe import Training
from unclip.training.log import RunLog
from unclip.training.loggers import About

OF_THE_CLOCK = (
    "images_per_second", "operations_per_second", "share_of_peak", "waiting_for_data", "memory_gib",
)  # fmt: skip
"""Metrics that say how a machine fares, and differ from run to run."""
_MOSTLY = 0.5  # of the time: a run that waits longer for its data says so
_SURE = 10.0  # seconds, and steps, that such a finding is taken from at least


def duration(seconds: float) -> str:
    """A time in the unit that suits it: "40 s", "7.5 min", "3.2 h", "55 days"."""
    for unit, length, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if seconds < most * length:
            number = seconds / length
            return f"{number:.0f} {unit}" if number >= 10 or unit == "s" else f"{number:.1f} {unit}"
    return f"{seconds / 86_400:,.0f} days"


@dataclass(frozen=True)
class Rates:
    """What makes a rate of operations of one of images.

    Args:
        operations: of an image, see `training/counting.py`.
        peak: operations a second that products reach here, on all processes together; 0 if that is
            not known.
    """

    operations: float
    peak: float


class Report:
    """What one process says and writes of its run; nothing where `about` is None.

    Args:
        about: the run, whose folder is written into.
        images: of an epoch; 0 where there are none.
        rates: where operations are counted.
    """

    def __init__(
        self,
        training: Training,
        first_step: int,
        about: About | None,
        dtype: torch.dtype,
        device: torch.device,
        images: int = 0,
        rates: Rates | None = None,
    ) -> None:
        self.training, self.images, self.rates, self.device = training, images, rates, device
        self.log = RunLog(about, training.loggers) if about else None
        self.bar = tqdm(
            total=training.steps, initial=first_step, unit="step", dynamic_ncols=True,
            disable=about is None or not sys.stderr.isatty(),
        )  # fmt: skip
        self.first_step = first_step
        self.last_step, self.last_time = first_step, time.monotonic()
        self._told = False  # that it waits for its data
        if about:
            said = f"training from step {first_step} to {training.steps} in {name_of(dtype)}"
            if emulated(dtype, device):  # the run's own, or one that was asked for
                said += ", which this CPU emulates: --training.precision fp32 is many times faster"
            print(said, flush=True)

    def is_due(self, step: int) -> bool:
        """Count a step; whether it is one to be said, which all processes agree on: the first of a
        process too, so that something is seen soon."""
        self.bar.update()
        return step == self.first_step + 1 or self._is_logged(step)

    def _is_logged(self, step: int) -> bool:
        """Whether a step is one for `metrics.jsonl`, whenever the run was interrupted."""
        return step % self.training.log_every == 0 or step == self.training.steps

    def step(self, step: int, values: dict[str, float], rate: float) -> None:
        """Say a step's values in a short line and log all of them, and the speed if the clock has
        moved since the last time."""
        if self.log is None:
            return
        now = time.monotonic()
        took, steps = now - self.last_time, step - self.last_step
        values = {**values, "learning_rate": rate}
        if self.images:
            epoch = step * self.training.batch_size / self.images
            values = {"epoch": round(epoch, 4), **values}
        speed = self.training.batch_size * steps / took if took > 0 else 0.0
        values |= self._of_the_machine(speed)
        if self._is_logged(step) or "validation_loss" in values:
            self.log.scalars(step, values)
        names = {"loss": "loss", "validation_loss": "held out", "images_per_second": "images/s"}
        self.bar.set_postfix({names[key]: f"{values[key]:.4g}" for key in names if key in values})
        if self.bar.disable:
            # The first step of a process starts the data's workers: it says nothing of the others.
            first = step == self.first_step + 1
            left = 0.0 if first else (self.training.steps - step) * took / max(1, steps)
            said = line(step, self.training.steps, values, 0.0 if first else speed, left)
            print(said, flush=True)
        self._say_if_it_waits(values.get("waiting_for_data", 0.0), took, steps)
        self.last_step, self.last_time = step, now

    def samples(self, step: int, numbers: Sequence[int]) -> None:
        """Log which samples a step has learned from, if they are known."""
        if self.log is not None and numbers:
            self.log.samples(step, numbers)

    def _of_the_machine(self, speed: float) -> dict[str, float]:
        """What follows from a number of images a second, and memory; of no speed nothing."""
        found = {"images_per_second": speed} if speed else {}
        if speed and self.rates:
            found["operations_per_second"] = speed * self.rates.operations
            if self.rates.peak:
                found["share_of_peak"] = speed * self.rates.operations / self.rates.peak
        memory = peak_memory(self.device)
        return found | ({"memory_gib": memory / 2**30} if memory else {})

    def _say_if_it_waits(self, share: float, took: float, steps: int) -> None:
        if self._told or share < _MOSTLY or min(took, steps) < _SURE:
            return
        self._told = True
        self.say(
            f"training waits for its images {share:.0%} of the time: more --data.workers, a faster "
            "disk or smaller files would make it faster"
        )

    def say(self, line: str) -> None:
        """A line of its own, above the bar if there is one."""
        if self.log is not None:
            tqdm.write(line)
            sys.stdout.flush()

    def pictures(self, step: int, rows: Tensor | None, captions: Sequence[str]) -> None:
        """Keep what a preview has drawn, if it has drawn anything."""
        if self.log is not None and rows is not None:
            self.log.pictures(step, rows, captions)

    def close(self) -> None:
        self.bar.close()
        if self.log is not None:
            self.log.close()


def line(step: int, steps: int, values: Mapping[str, float], speed: float, left: float) -> str:
    """What is printed of a step: the few values that one looks at.

    Args:
        speed, left: images a second, and seconds; 0 if they are not known.
    """
    parts = [f"step {step}/{steps}"]
    parts += [f"{key} {values[key]:.4g}" for key in ("loss", "accuracy") if key in values]
    if "validation_loss" in values:
        more = [f"{key} {values[name]:.4g}" for key, name in _HELD_OUT.items() if name in values]
        parts.append(f"held out {values['validation_loss']:.4g} ({', '.join(more)})")
    if speed:
        parts.append(f"{speed:,.0f} images/s" if speed >= 10 else f"{speed:.2g} images/s")
    if left:
        parts.append(f"{duration(left)} left")
    return "  ".join(parts)


_HELD_OUT = {"accuracy": "validation_accuracy", "seen": "validation_seen_loss"}
