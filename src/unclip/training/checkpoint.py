"""Step checkpoints: one safetensors file each, written under another name and renamed.

A checkpoint holds the weights, their moving average, the best average so far if held-out images are
measured, and the optimiser's moments. In its header are the step, what was measured, the data's
fingerprint, the precision, what was learned from, and a checksum of each tensor. Nothing else is
needed to continue bit-identically: data order, augmentation, noise and dropout are functions of the
step (`loop.py`).
"""

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unclip.checks import shown
from unclip.files import read_facts, read_safetensors, sweep, write_safetensors
from unclip.training.best import Best
from unclip.training.ema import EMA
from unclip.training.parallel import Parallel

_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum")
_KEEP = 2  # the newest and, should the disk fail under it, the one before
_CHECKSUMS = "checksums"
_NAME = re.compile(r"step-[0-9]{8,15}\.safetensors")


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

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], best: Mapping[str, Any]) -> None:
        """Take over whole tensors, or this process's part of them; `best` is that of `facts`."""
        shard = self.parallel.shard
        for name, parameter in self.network.named_parameters():
            parameter.copy_(shard(tensors[f"network.{name}"], like=parameter))
            average = self.ema.average[name]
            average.copy_(shard(tensors[f"ema.{name}"], like=average))
            # The fused optimiser walks memory, so moments must lie as their weights do.
            moments = {
                key: torch.empty_like(parameter, dtype=torch.float32).copy_(
                    shard(tensors[f"{key}.{name}"], like=parameter)
                )
                for key in _MOMENTS
                if f"{key}.{name}" in tensors
            }
            if f"step.{name}" in tensors:
                moments["step"] = tensors[f"step.{name}"].to(parameter.device, copy=True)
            if moments:
                self.optimiser.state[parameter] = moments
        self.best = Best.of(
            best,
            {
                name: torch.empty_like(average).copy_(shard(tensors[f"best.{name}"], like=average))
                for name, average in self.ema.average.items()
                if best
            },
        )


def save(state: State, folder: Path) -> Path:
    """Write a checkpoint of `state`, keep it and the one before; nothing half-written is left.

    Collective: every process gives its part, and the main one writes.

    Raises:
        ValueError: the disk is full, or the folder cannot be written.
    """
    target = folder / f"step-{state.step:08d}.safetensors"
    tensors = state.parallel.full_state(state.tensors())
    if not state.parallel.main:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    sums = checksums(tensors, state.facts)
    write_safetensors(
        target, tensors, {**state.facts, _CHECKSUMS: json.dumps(sums, sort_keys=True)}
    )
    for old in checkpoints(folder)[:-_KEEP]:
        old.unlink()
    return target


def checksums(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> dict[str, int]:
    """CRC-32 of every tensor's bytes by its name; under "", that of the facts."""
    sums = {"": zlib.crc32(json.dumps(dict(facts), sort_keys=True).encode())}
    for key, tensor in tensors.items():
        begun = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        sums[key] = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, begun)
    return sums


def checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints, oldest first; copies under other names are none."""
    files = [file for file in folder.glob("step-*.safetensors") if _NAME.fullmatch(file.name)]
    return sorted(files, key=step_of)


def resume(state: State, folder: Path) -> None:
    """Continue from the newest checkpoint in `folder` that is whole.

    Raises:
        ValueError: there is none, it is of another network or optimiser, or it was trained on
            other data.
    """
    sweep(folder)
    file, tensors, facts = _newest(folder)
    if facts.get("data", state.data) != state.data:
        raise ValueError(
            f"{file} was trained on other data than is given now (its files, captions or settings "
            "changed) or by another teacher; give the run those it began with, or start anew with "
            "--overwrite"
        )
    if facts.get("optimiser", state.optimiser_kind) != state.optimiser_kind:
        raise ValueError(
            f"{file} has the moments of {facts['optimiser']}; continue with --optimiser.kind "
            f"{facts['optimiser']}, or start anew with --overwrite"
        )
    before = _noted(facts, "learned_from")
    for name, fingerprint in state.learned_from.items():
        if before.get(name, fingerprint) != fingerprint:
            raise ValueError(
                f"{file} was trained with another {name} than the model has now; start anew with "
                "--overwrite"
            )
    wanted, best = state.tensors(), _noted(facts, "best")
    if best:
        wanted |= {f"best.{name}": average for name, average in state.ema.average.items()}
    for key in tensors:
        if key.startswith(("network.", "ema.", "best.")) and key not in wanted:
            raise ValueError(f"{file} is of another network: it has a tensor {key!r} besides")
    for key, tensor in wanted.items():
        if key not in tensors:
            raise ValueError(f"{file} is of another network: it has no tensor {key!r}")
        if tensors[key].shape != tensor.shape:
            raise ValueError(
                f"{file} is of another network: its tensor {key!r} has shape "
                f"{tuple(tensors[key].shape)}, not {tuple(tensor.shape)}"
            )
    for name, parameter in state.network.named_parameters():
        for key in _MOMENTS:
            moment = tensors.get(f"{key}.{name}", parameter)
            if moment.shape != parameter.shape:
                raise ValueError(
                    f"{file} is of another network: {shown(f'{key}.{name}')} has shape "
                    f"{tuple(moment.shape)}, not {tuple(parameter.shape)}"
                )
    try:
        state.load(tensors, best)
    except (KeyError, TypeError):
        raise ValueError(f"{file} does not say what was measured of it as it should") from None
    state.step = step_of(file)
    state.precision = facts.get("precision", "")


def step_of(file: Path) -> int:
    """Of a checkpoint, by its name."""
    return int(file.stem.removeprefix("step-"))


def _noted(facts: Mapping[str, str], key: str) -> dict[str, Any]:
    """An object that a header holds as JSON; an empty one where it holds none."""
    try:
        value = json.loads(facts.get(key, ""))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _newest(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, str]]:
    """The newest checkpoint that is sound; a damaged one is passed over and said to be."""
    damage: ValueError | None = None
    for file in reversed(checkpoints(folder)):
        if damage is not None:
            print(f"{damage}; trying the checkpoint before it", flush=True)
        try:
            return file, *_read(file)
        except ValueError as error:
            damage = error
    if damage is None:
        raise ValueError(f"nothing to resume: {folder} holds no checkpoint")
    raise ValueError(f"{damage}; there is no sound checkpoint before it: start with --overwrite")


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts; `ValueError` where they are not those that were written."""
    tensors, facts = read_safetensors(file), read_facts(file)
    if _CHECKSUMS not in facts:  # written before there were checksums
        return tensors, facts
    named = _noted(facts, _CHECKSUMS)
    del facts[_CHECKSUMS]
    facts.pop("format", None)  # safetensors' own
    found = checksums(tensors, facts)
    if named != found:
        bad = sorted(key for key in {*named, *found} if key and named.get(key) != found.get(key))
        what = f"its tensor {shown(bad[0])}" if bad else "its header"
        raise ValueError(f"{file} is damaged: {what} is not what was written")
    return tensors, facts
