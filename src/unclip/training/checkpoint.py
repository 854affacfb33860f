"""Step checkpoints: everything that training changes, written and read by any number of processes.

A checkpoint holds the weights, their moving average, the best average so far if held-out images are
measured, and the optimiser's moments. Beside them it says the step, what was measured, the data's
fingerprint, the precision and what was learned from. Nothing else is needed to continue, bit for
bit where as many processes go on: data order, augmentation, noise and dropout are functions of the
step (`loop.py`). How it lies on the disk is in `parts.py`.
"""

import contextlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unclip.checks import shown
from unclip.files import private_folder, sweep
from unclip.training import parts
from unclip.training.best import Best
from unclip.training.ema import EMA
from unclip.training.parallel import Parallel
from unclip.training.parts import Contents, noted

_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum")
_KEEP = 2  # the newest and, should the disk fail under it, the one before
_NAME = re.compile(r"step-([0-9]{8,15})(\.safetensors|\.before)?")


@dataclass
class State:
    """Everything that training changes, and what must stay the same for a run to continue.

    Args:
        network, optimiser, ema, step: what changes.
        parallel: how whole tensors are had of it, and made its own.
        data: fingerprint of the data.
        precision: of the networks' computations, "fp32" or "bf16": where the recipe leaves the
            choice to a measurement, a resumed run must not measure again.
        optimiser_kind: whose moments they are.
        learned_from: fingerprints of the components of the model folder that are learned from.
        best: the average that held-out images like best, where they are measured.
        damaged: checkpoints that were passed over when the run was resumed; they count for none.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    ema: EMA
    parallel: Parallel
    step: int = 0
    data: str = ""
    precision: str = ""
    optimiser_kind: str = ""
    learned_from: Mapping[str, str] = field(default_factory=dict)
    best: Best = field(default_factory=Best)
    damaged: tuple[Path, ...] = ()

    @property
    def facts(self) -> dict[str, str]:
        return {
            "step": str(self.step),
            "data": self.data,
            "precision": self.precision,
            "optimiser": self.optimiser_kind,
            "learned_from": json.dumps(dict(self.learned_from), sort_keys=True),
            **self.best.facts(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """As this process has them, whole or in part."""
        tensors = {f"network.{k}": v.detach() for k, v in self.network.named_parameters()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.average.items()}
        tensors |= {f"best.{k}": v for k, v in self.best.weights.items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
        return tensors

    def places(self, there: Collection[str]) -> dict[str, Tensor]:
        """What the tensors of a checkpoint, by name, are read into: this state's own weights and
        average, and new ones for the rest, which `take` takes over."""
        places = {f"network.{k}": v.detach() for k, v in self.network.named_parameters()}
        places |= {f"ema.{k}": v for k, v in self.ema.average.items()}
        for name, average in self.ema.average.items():
            if f"best.{name}" in there:
                places[f"best.{name}"] = torch.empty_like(average)
        for name, parameter in self.network.named_parameters():
            for key in _MOMENTS:
                if f"{key}.{name}" in there:
                    # The fused optimiser walks memory, so moments must lie as their weights do.
                    places[f"{key}.{name}"] = torch.empty_like(
                        parameter.detach(), dtype=torch.float32
                    )
            if f"step.{name}" in there:
                places[f"step.{name}"] = torch.zeros((), device=parameter.device)
        return places

    def take(self, places: Mapping[str, Tensor], best: Mapping[str, Any]) -> None:
        """Go on with what was read into `places`; `best` is that of `facts`.

        Raises:
            KeyError, TypeError: that is none.
        """
        for name, parameter in self.network.named_parameters():
            moments = {
                key: places[f"{key}.{name}"]
                for key in (*_MOMENTS, "step")
                if f"{key}.{name}" in places
            }
            if moments:
                self.optimiser.state[parameter] = moments
        self.best = Best.of(
            best, {name: places[f"best.{name}"] for name in self.ema.average if best}
        )


def save(state: State, folder: Path) -> None:
    """Write a checkpoint of `state`, keep it and the one before; nothing half-written is left.

    Collective: each process writes what it has.

    Raises:
        ValueError: the disk is full, or the folder cannot be written.
    """
    target, alone = folder / f"step-{state.step:08d}", state.parallel.world_size == 1
    if alone:
        parts.write(target, state.tensors(), state.facts)
    else:
        from unclip.training.checkpoint_storage import write

        write(target, state.tensors(), state.facts)
    if state.parallel.main:
        _clear(folder, target.with_suffix(parts.SUFFIX) if alone else target, state.damaged)


def checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints, files and folders, oldest first; copies under other names are none."""
    found = [
        path
        for path in folder.glob("step-*")
        if (match := _NAME.fullmatch(path.name)) and path.is_dir() == (match[2] != ".safetensors")
    ]
    return sorted(found, key=lambda path: (step_of(path), path.suffix != ".before"))


def step_of(path: Path) -> int:
    """Of a checkpoint, by its name."""
    return int(path.stem.removeprefix("step-"))


def resume(state: State, folder: Path) -> None:
    """Continue from the newest checkpoint in `folder` that is whole. Collective.

    Raises:
        ValueError: there is none, it is of another network or optimiser, or it was trained on
            other data.
    """
    if state.parallel.main:
        sweep(folder)
    found, state.damaged = _newest(folder, state.parallel)
    path, facts = found.path, found.facts
    if facts.get("data", state.data) != state.data:
        raise ValueError(
            f"{path} was trained on other data than is given now (its files, captions or settings "
            "changed) or by another teacher; give the run those it began with, or start anew with "
            "--overwrite"
        )
    if facts.get("optimiser", state.optimiser_kind) != state.optimiser_kind:
        raise ValueError(
            f"{path} has the moments of {facts['optimiser']}; continue with --optimiser.kind "
            f"{facts['optimiser']}, or start anew with --overwrite"
        )
    before = noted(facts, "learned_from")
    for name, fingerprint in state.learned_from.items():
        if before.get(name, fingerprint) != fingerprint:
            raise ValueError(
                f"{path} was trained with another {name} than the model has now; start anew with "
                "--overwrite"
            )
    best = noted(facts, "best")
    places = state.places(found.pieces)
    _check_network(found, places, state, best)
    if state.parallel.world_size == 1:
        parts.fill(found, places)
    else:
        from unclip.training.checkpoint_storage import read

        read(found, places)
    try:
        state.take(places, best)
    except (KeyError, TypeError):
        raise ValueError(f"{path} does not say what was measured of it as it should") from None
    state.step = step_of(path)


def noted_precision(folder: Path, parallel: Parallel) -> str:
    """What the newest checkpoint was computed in; "" where none says it. Collective."""
    said = ""
    for path in reversed(checkpoints(folder)) if parallel.main else ():
        with contextlib.suppress(ValueError):  # a damaged one is named when it is read
            said = said or parts.contents(path).facts.get("precision", "")
    return parallel.heard(said)


def _check_network(
    found: Contents, places: Mapping[str, Tensor], state: State, best: Mapping[str, Any]
) -> None:
    """Refuse a checkpoint whose tensors are not those that this state needs.

    Raises:
        ValueError: which one is not.
    """
    needed = {key for key in places if key.startswith(("network.", "ema."))}
    needed |= {f"best.{name}" for name in state.ema.average if best}
    another = f"{found.path} is of another network"
    for key in found.pieces:
        if key.startswith(("network.", "ema.", "best.")) and key not in needed:
            raise ValueError(f"{another}: it has a tensor {key!r} besides")
    for key in sorted(needed - found.pieces.keys()):
        raise ValueError(f"{another}: it has no tensor {key!r}")
    for key, tensor in places.items():
        if found.shape(key) != tensor.shape:
            raise ValueError(
                f"{another}: its tensor {shown(key)} has shape {found.shape(key)}, not "
                f"{tuple(tensor.shape)}"
            )


def _newest(folder: Path, parallel: Parallel) -> tuple[Contents, tuple[Path, ...]]:
    """The newest checkpoint that is sound, and damaged ones that were passed over and said to be.

    All processes try the same, and each reads some of its parts through.
    """
    damage = ""
    damaged: list[Path] = []
    names = "\n".join(path.name for path in checkpoints(folder)) if parallel.main else ""
    for name in reversed(parallel.heard(names).splitlines()):  # a shared disk may lag elsewhere
        if damage and parallel.main:
            print(f"{damage}; trying the checkpoint before it", flush=True)
        damage, path = "", folder / name
        try:
            found = parts.contents(path)
            if found.facts.get("step", str(step_of(path))) != str(step_of(path)):
                raise ValueError(f"{path} holds step {found.facts['step']}, as another was called")
            parts.check(parts.parts_of(path)[parallel.rank :: parallel.world_size])
        except ValueError as error:
            damage = str(error)
        damage = parallel.heard(damage)
        if not damage:
            return found, tuple(damaged)
        damaged.append(path)
    if not damage:
        raise ValueError(f"nothing to resume: {folder} holds no checkpoint")
    raise ValueError(f"{damage}; there is no sound checkpoint before it: start with --overwrite")


def _clear(folder: Path, newest: Path, damaged: Collection[Path]) -> None:
    """Remove checkpoints but the newest two; of the newest step, all but what was written; and
    those of later steps, which the run has gone back behind."""
    there = [path for path in checkpoints(folder) if path == newest or path not in damaged]
    last = step_of(newest)
    steps = sorted({step_of(path) for path in there if step_of(path) <= last})[-_KEEP:]
    for path in checkpoints(folder):
        again = step_of(path) == last and path != newest
        if again or path not in there or step_of(path) not in steps:
            _discard(path)


def _discard(path: Path) -> None:
    """Remove a checkpoint, so that nothing half-removed is ever taken for one."""
    if path.is_dir():
        with private_folder(path) as private:
            path.rename(private / path.name)
    else:
        path.unlink()
