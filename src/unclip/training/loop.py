"""The training loop: one for every stage.

All randomness of step k comes from generators that are seeded by (seed, k, part): noise, timesteps
and dropped conditions of a batch's rows, whichever process has them, and dropout, each process's
own. The data order is a function of k as well. The state of a run is therefore its weights, their
average and the best average so far, the optimiser's moments and one integer, and a resumed run is
bit-identical to one that was never stopped. Measuring on held-out images decides which weights are
the best, and changes nothing else.
"""

import contextlib
import hashlib
import math
import sys
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from unclip.batch import Batch, on_device
from unclip.config import to_mapping
from unclip.device.precision import dtype_named, name_of, peak_speed
from unclip.draws import RowsGenerator
from unclip.networks.layers import share_dropout
from unclip.stages.base import LearnsFromItself
from unclip.training import checkpoint
from unclip.training.best import Best, Measured, overfitting, published
from unclip.training.counting import counted
from unclip.training.ema import EMA
from unclip.training.job import Job
from unclip.training.loggers import About
from unclip.training.muon import Muon
from unclip.training.optimiser import build, learning_rate, set_learning_rate
from unclip.training.parallel import Parallel
from unclip.training.report import Rates, Report
from unclip.training.sam import sharpness_aware
from unclip.training.signals import Stopper
from unclip.training.units import checkpoint_units, compile_units
from unclip.training.validation import Validation
from unclip.training.waiting import SILENCE, Waiting, watched

_EPOCHS = 2  # before over-fitting is spoken of: nothing is learned by heart at first sight
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class NotFiniteError(ValueError):
    """The loss or a gradient is not a number any more."""


class Trainer:
    """A job under way: its network with optimiser and average, at a step.

    Making one reads the checkpoint of a run that is resumed, and writes nothing.

    Raises:
        ValueError: there is nothing to resume, or it does not fit.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.recipe, self.parallel = job, job.recipe, job.parallel
        self.network = job.stage.network.train()
        self._prepare_units()
        self.checkpoints = job.folders.run / "checkpoints"
        resume, noted = job.folders.resume, ""
        if resume:
            noted = checkpoint.noted_precision(self.checkpoints, self.parallel)
        self.dtype = self._precision(noted)
        self.trained = self.parallel.prepare(job.stage, self.dtype)
        share_dropout(self.network, self.parallel.rank, self.parallel.world_size)
        self.state = checkpoint.State(
            self.network,
            build(self.network, self.recipe.optimiser, self.parallel),
            EMA(self.network, self.recipe.training.ema),
            self.parallel,
            data=job.data.fingerprint,
            precision=name_of(self.dtype),
            optimiser_kind=self.recipe.optimiser.kind,
            learned_from=job.learned_from,
        )
        if isinstance(self.state.optimiser, Muon):
            self.state.optimiser.dtype = self.dtype
        if isinstance(job.stage, LearnsFromItself):
            job.stage.averaged = self._averaged
        self._published = resume
        if resume:
            self._resume()
        self._compare_best()
        self.parts, self.waiting = job.data.batches(self.state.step), Waiting()
        self.samples: list[int] = []  # of the step under way, where they are to be logged

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within a pass, a block with the averaged weights, or with those that are measured."""
        if self.state.ema.away:
            yield
            return
        with self.state.ema.in_place():
            self.parallel.regather(self.trained)
            yield
        self.parallel.regather(self.trained)

    def _resume(self) -> None:
        checkpoint.resume(self.state, self.checkpoints)
        step, steps = self.state.step, self.recipe.training.steps
        if step > steps:
            raise ValueError(
                f"the run in {self.job.folders.run} is at step {step} already; training.steps is "
                f"{steps}, and must be {step} or more to resume it"
            )

    def _prepare_units(self) -> None:
        training, device = self.recipe.training, self.parallel.device
        if training.compile:
            compile_units(self.network, device)
        if training.checkpoint_activations:
            checkpoint_units(self.network)

    def _precision(self, noted: str) -> torch.dtype:
        """What the network computes in, in all processes, and as long as the run goes on."""
        wanted = self.recipe.training.precision
        measured = wanted == "auto" and noted
        dtype = dtype_named(measured or wanted, self.parallel.device)
        return _DTYPES[self.parallel.agreed(_DTYPES.index(dtype))]  # each process has measured

    def run(self, until: int | None = None) -> int:
        """Train up to `training.steps`, or until a signal asks to stop.

        Args:
            until: an earlier step to end at; a run that is resumed there goes on as it would have.

        Returns:
            0 when the run is complete, else the signal's number.

        Raises:
            ValueError: the disk is full.
            NotFiniteError: a loss or gradient was NaN or infinite; the last checkpoint is from
                before.
        """
        state, training, data = self.state, self.recipe.training, self.job.data
        rates = self._rates()
        report = Report(
            training, state.step, self._about(), self.dtype, self.parallel.device, data.images,
            rates,
        )  # fmt: skip
        kept, stopped = -1, 0
        stopping = "stopping after this step…" if self.job.reported else ""
        with (
            Stopper(stopping) as stopper,
            contextlib.closing(report),
            contextlib.closing(self.parts),
            watched(self.waiting, partial(self._say_silent, report)),
        ):
            while state.step < min(training.steps, until or training.steps):
                stopped = self.parallel.agreed(stopper.signal)
                if stopped:
                    break
                values = self.step()
                report.samples(state.step, self.samples)
                due, measured = report.is_due(state.step), self.validate(report)
                if due or measured:
                    rate = learning_rate(self.recipe.optimiser, state.step - 1, training.steps)
                    values["waiting_for_data"] = torch.tensor(
                        self.waiting.share(), device=self.parallel.device
                    )
                    report.step(state.step, {**self.parallel.averaged(values), **measured}, rate)
                if data.example and _is_due(state.step, training.preview_every):
                    captions = data.example.get("captions", ())
                    report.pictures(state.step, self.preview(data.example), captions)
                if _is_due(state.step, training.checkpoint_every):
                    self.keep()
                    kept = state.step
            if kept != state.step:  # or a complete run is resumed, which may lack its last publish
                self.keep()
            if stopped:
                report.say(f"checkpoint at step {state.step} of {training.steps}")
            if state.best.lowest.step:
                report.say(published(state.best))
        return stopped

    def _about(self) -> About | None:
        """The run, in the process that reports it."""
        job, path = self.job, self.job.reported
        tables = to_mapping(self.recipe) if path else None
        name = job.folders.model.name
        return About(path, self.state.step, job.name, name, tables) if path else None

    def _rates(self) -> Rates | None:
        """What an image takes and this machine gives, of a run that will say it often enough."""
        training, example = self.recipe.training, self.job.data.example
        if example is None or training.steps - self.state.step < training.log_every:
            return None
        device = self.parallel.device
        with self.trained.unaveraged():
            found = counted(self.trained, self.network, example, device, self.dtype).operations
        passes = 2 if self.recipe.optimiser.rho else 1
        peak = peak_speed(self.dtype, device) if self.parallel.main else 0.0
        return Rates(found * passes, peak * self.parallel.world_size)

    def _say_silent(self, report: Report) -> None:
        """Of any process, as all wait for the one whose images do not come."""
        said = (
            f"no images have come for {SILENCE:.0f} s: is the data on a disk that is slow or gone, "
            f"or read by too few processes (data.workers, now {self.recipe.data.workers})?"
        )
        if self.parallel.main:
            report.say(said)
        else:
            print(f"process {self.parallel.rank}: {said}", file=sys.stderr, flush=True)

    def step(self) -> dict[str, Tensor]:
        """One step; this process's losses and the norm of all processes' gradient."""
        state, recipe = self.state, self.recipe.optimiser
        set_learning_rate(state.optimiser, recipe, state.step, self.recipe.training.steps)
        losses = self.gradients()
        norm = self.parallel.clip_gradients(self.network, recipe.clip)
        check_finite(state.step, losses["loss"], norm)
        state.optimiser.step()
        state.optimiser.zero_grad()
        state.ema.update(state.step)
        state.step += 1
        return {**losses, "gradient_norm": norm}

    def gradients(self) -> dict[str, Tensor]:
        """Add up the gradients of a batch's parts; the means of their losses."""
        parts, rho = self.recipe.training.accumulation, self.recipe.optimiser.rho
        losses: dict[str, Tensor] = {}
        self.samples = []
        for part in range(parts):
            backward = partial(self.backward, self.next_part(), part)
            last = part == parts - 1  # which exchanges the gradients of all
            with contextlib.nullcontext() if last else self.trained.unaveraged():
                if rho:
                    weights, apart = self.network.parameters(), self.trained.unaveraged
                    of_part = sharpness_aware(backward, weights, rho, self.parallel, apart)
                else:
                    of_part = backward()
            add(losses, of_part, parts)
        return losses

    def next_part(self) -> Batch:
        """This process's share of the next part of a batch; its samples are noted if asked for."""
        with self.waiting:
            part = next(self.parts)
        batch = on_device(part, self.parallel.device)
        if "samples" in batch:
            self.samples += self.parallel.gather(batch.pop("samples")).tolist()
        return batch

    def backward(self, batch: Batch, part: int) -> dict[str, Tensor]:
        """Losses of a part of a batch, and their gradients."""
        training = self.recipe.training
        generator = seeded(training.seed, self.state.step, part, self.parallel)
        with self._autocast():
            losses: dict[str, Tensor] = self.trained(batch, generator)
        (losses["loss"] / training.accumulation).backward()  # type: ignore[no-untyped-call]
        return losses

    def validate(self, report: Report) -> dict[str, float]:
        """Measure the averaged weights where that is due, and keep them if they are the best.

        Returns:
            What was measured, "validation_…"; nothing where it was not due.
        """
        state, validation = self.state, self.job.data.validation
        if validation is None or not validation.is_due(state.step, self.recipe.training.steps):
            return {}
        with state.ema.in_place():
            values = self.losses_on(validation)
        state.best.offer(Measured.of(state.step, values), state.ema.average)
        seen = state.step * self.recipe.training.batch_size
        early = seen < _EPOCHS * self.job.data.images
        if not (early or state.best.told) and state.best.overfits(validation.every):
            state.best.told = True
            report.say(overfitting(state.best, self.job.data.images))
        return {f"validation_{key}": value for key, value in values.items()}

    @torch.no_grad()
    def losses_on(self, validation: Validation) -> dict[str, float]:
        """The stage's means on held-out images with the network's weights as they are, and
        "seen_loss" on images of training. All processes get the same."""
        self.network.eval()
        found = []
        for parts in (validation.held_out, validation.seen):
            sums: dict[str, Tensor] = {}
            for number, part in enumerate(parts):
                generator = seeded(self.recipe.training.seed, -1, number, self.parallel)
                with self._autocast():
                    losses = self.trained(on_device(part, self.parallel.device), generator)
                add(sums, losses, len(parts))
            found.append(self.parallel.averaged(sums))
        self.parallel.computed(self.trained)
        self.network.train()
        held_out, seen = found
        return {**held_out, "seen_loss": seen["loss"]}

    def _compare_best(self) -> None:
        """Measure a resumed run's best weights anew, where they were measured on others or with
        other processes; forget them where nothing is measured any more."""
        state, validation = self.state, self.job.data.validation
        if validation is None:
            state.best = Best()
            return
        before, state.best.measured_on = state.best.measured_on, validation.measured_on
        if state.best.lowest.step and before != validation.measured_on:
            with state.ema.in_place(state.best.weights):
                values = self.losses_on(validation)
            low = Measured.of(state.best.lowest.step, values)
            state.best.lowest = state.best.newest = low

    @torch.no_grad()
    def preview(self, example: Batch) -> Tensor | None:
        """What the averaged weights draw for the example: rows of images, or none."""
        if not (self.parallel.main or self.parallel.sharded):
            return None
        generator = torch.Generator(self.parallel.device).manual_seed(0)
        with self.state.ema.in_place(), self._autocast():
            self.network.eval()
            rows = self.trained.preview(on_device(example, self.parallel.device), generator)
            self.parallel.computed(self.trained)
            self.network.train()
        return rows

    def keep(self) -> None:
        """Write a checkpoint, and publish the averaged weights: the best, where they are known."""
        checkpoint.save(self.state, self.checkpoints)
        best = self.state.best.weights or None
        with self.state.ema.in_place(best), self.parallel.full_weights(self.network):
            if self.parallel.main:
                self.job.publish(anew=not self._published)
        self._published = True

    def _autocast(self) -> torch.autocast:
        enabled = self.dtype != torch.float32
        return torch.autocast(self.parallel.device.type, self.dtype, enabled=enabled)


def add(sums: dict[str, Tensor], values: dict[str, Tensor], parts: int) -> None:
    """Add values by name, each divided by how many parts there are."""
    for key, value in values.items():
        share = value.detach().float() / parts
        sums[key] = sums[key] + share if key in sums else share


def check_finite(step: int, loss: Tensor, norm: Tensor) -> None:
    """Refuse to go on with a loss or a gradient that is no number.

    Raises:
        NotFiniteError: one of them is none.
    """
    # The sum of both is finite exactly if both are: one look at the device, not two.
    if not math.isfinite(float(loss.detach() + norm)):
        raise NotFiniteError(
            f"the loss or its gradient is not finite at step {step}; the last checkpoint is "
            "kept: resume with a lower --optimiser.learning-rate, a longer "
            "--optimiser.warmup or --training.precision fp32"
        )


def seeded(seed: int, step: int, part: int, parallel: Parallel) -> torch.Generator:
    """Seed the global stream (dropout) and return one for noise, from (seed, step, part).

    Noise belongs to the rows of a part of a batch, whichever process has them, and so does dropout
    on a CPU (`networks.layers.RowDropout`); on a GPU it is each process's own.
    """
    rank, processes = parallel.rank, parallel.world_size
    whole, own = (_mixed(seed, step, part, number) for number in (0, rank))
    torch.manual_seed(whole if parallel.device.type == "cpu" else own)
    if processes == 1:
        return torch.Generator(parallel.device).manual_seed(own + 1)
    generator = RowsGenerator(parallel.device, rank, processes)
    generator.whole.manual_seed(whole + 1)
    return generator.manual_seed(own + 1)


def _mixed(*numbers: int) -> int:
    name = "/".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=7).digest())


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
