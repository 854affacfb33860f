"""Step checkpoints: one safetensors file each, written under another name and renamed.

A checkpoint holds the weights, their moving average and the optimiser's moments, and in its header
the step, the data's fingerprint and the precision. Nothing else is needed to continue
bit-identically: data order, augmentation, noise and dropout are functions of the step (`loop.py`).
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from unclip.files import read_facts, read_safetensors, write_safetensors
from unclip.training.optimiser import EMA

_KEEP = 2  # the newest and, should the disk fail under it, the one before


@dataclass
class State:
    """Everything that training changes, and what must stay the same for a run to continue.

    Args:
        network, optimiser, ema, step: what changes.
        data: fingerprint of the data.
        precision: of the networks' computations, "fp32" or "bf16": where the recipe leaves the
            choice to a measurement, a resumed run must not measure again.
        optimiser_kind: whose moments they are.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    ema: EMA
    step: int = 0
    data: str = ""
    precision: str = ""
    optimiser_kind: str = ""

    @property
    def facts(self) -> dict[str, str]:
        return {
            "step": str(self.step),
            "data": self.data,
            "precision": self.precision,
            "optimiser": self.optimiser_kind,
        }

    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{k}": v.detach() for k, v in self.network.named_parameters()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.average.items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
        return tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self.network.named_parameters():
            parameter.copy_(tensors[f"network.{name}"])
            # The fused optimiser walks memory, so moments must lie as their weights do.
            moments = {
                key: torch.empty_like(parameter, dtype=torch.float32).copy_(
                    tensors[f"{key}.{name}"]
                )
                for key in ("exp_avg", "exp_avg_sq", "momentum")
                if f"{key}.{name}" in tensors
            }
            if f"step.{name}" in tensors:
                moments["step"] = tensors[f"step.{name}"].to(parameter.device, copy=True)
            if moments:
                self.optimiser.state[parameter] = moments
        self.ema.load({k[4:]: v for k, v in tensors.items() if k.startswith("ema.")})


def save(state: State, folder: Path) -> Path:
    """Write a checkpoint of `state`, keep it and the one before; nothing half-written is left.

    Raises:
        ValueError: the disk is full, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{state.step:08d}.safetensors"
    write_safetensors(target, state.tensors(), state.facts)
    for old in checkpoints(folder)[:-_KEEP]:
        old.unlink()
    return target


def checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def resume(state: State, folder: Path) -> None:
    """Continue from the newest checkpoint in `folder` that is whole.

    Raises:
        ValueError: there is none, it is of another network or optimiser, or it was trained on
            other data.
    """
    for partial in folder.glob(".*"):  # left by a killed process
        with contextlib.suppress(OSError):
            partial.unlink()
    file, tensors = _newest(folder)
    facts = read_facts(file)
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
    wanted = state.tensors()
    for key in tensors:
        if key.startswith(("network.", "ema.")) and key not in wanted:
            raise ValueError(f"{file} is of another network: it has a tensor {key!r} besides")
    for key, tensor in wanted.items():
        if key not in tensors:
            raise ValueError(f"{file} is of another network: it has no tensor {key!r}")
        if tensors[key].shape != tensor.shape:
            raise ValueError(
                f"{file} is of another network: its tensor {key!r} has shape "
                f"{tuple(tensors[key].shape)}, not {tuple(tensor.shape)}"
            )
    state.load(tensors)
    state.step = int(file.stem.removeprefix("step-"))
    state.precision = facts.get("precision", "")


def _newest(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The newest checkpoint that can be read; a damaged one is passed over and said to be."""
    damage: ValueError | None = None
    for file in reversed(checkpoints(folder)):
        try:
            return file, read_safetensors(file)
        except ValueError as error:
            print(f"{error}; trying the checkpoint before it", flush=True)
            damage = error
    raise damage or ValueError(f"nothing to resume: {folder} holds no checkpoint")
