"""Progress on the terminal, and metrics and pictures in the run's folder."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from unclip.device.precision import emulated, name_of
from unclip.stages.recipe import Training
from unclip.training.log import RunLog


def duration(seconds: float) -> str:
    """A time in the unit that suits it: "40 s", "7.5 min", "3.2 h", "55 days"."""
    for unit, length, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if seconds < most * length:
            number = seconds / length
            return f"{number:.0f} {unit}" if number >= 10 or unit == "s" else f"{number:.1f} {unit}"
    return f"{seconds / 86_400:,.0f} days"


class Report:
    """What one process says and writes of its run; nothing where `folder` is None.

    Args:
        images: of an epoch; 0 where there are none.
    """

    def __init__(
        self,
        training: Training,
        first_step: int,
        folder: Path | None,
        dtype: torch.dtype,
        device: torch.device,
        images: int = 0,
    ) -> None:
        self.training, self.images = training, images
        self.log = RunLog(folder, first_step) if folder else None
        self.bar = tqdm(
            total=training.steps, initial=first_step, unit="step", dynamic_ncols=True,
            disable=folder is None or not sys.stderr.isatty(),
        )  # fmt: skip
        self.first_step = first_step
        self.last_step, self.last_time = first_step, time.monotonic()
        if folder:
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
        """Say and log a step's values, and the speed if the clock has moved since the last time."""
        if self.log is None:
            return
        now = time.monotonic()
        took, steps = now - self.last_time, step - self.last_step
        values = {**values, "learning_rate": rate}
        if self.images:
            epoch = step * self.training.batch_size / self.images
            values = {"epoch": round(epoch, 4), **values}
        names = ("loss", "validation_loss")
        shown: dict[str, float] = {key: values[key] for key in names if key in values}
        if took > 0:
            values["images_per_second"] = self.training.batch_size * steps / took
            shown["images/s"] = values["images_per_second"]
        if self._is_logged(step) or "validation_loss" in values:
            self.log.scalars(step, values)
        self.bar.set_postfix({key: f"{value:.4g}" for key, value in shown.items()})
        if self.bar.disable:
            left = (self.training.steps - step) * took / max(1, steps)
            text = " ".join(f"{key} {value:.4g}" for key, value in values.items())
            print(f"step {step}/{self.training.steps} {text} left {left / 60:.1f} min", flush=True)
        self.last_step, self.last_time = step, now

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
