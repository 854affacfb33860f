"""Step checkpoints: one safetensors file each, written under another name and renamed.

A checkpoint holds the weights, their moving average and the optimiser's moments, and in its header
the step. Nothing else is needed to continue bit-identically: data order, augmentation, noise and
dropout are functions of the step (see `loop.py`).
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from unclip.models.folder import read_safetensors
from unclip.training.optimiser import EMA

_KEEP = 2  # the newest and, should the disk fail under it, the one before


@dataclass
class State:
    """Everything that training changes."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    ema: EMA
    step: int = 0

    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{k}": v.detach() for k, v in self.network.named_parameters()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.average.items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
        return tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        self.step = step
        for name, parameter in self.network.named_parameters():
            parameter.copy_(tensors[f"network.{name}"])
            if f"exp_avg.{name}" in tensors:
                self.optimiser.state[parameter] = {
                    key: tensors[f"{key}.{name}"].to(
                        device="cpu" if key == "step" else parameter.device
                    )
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        self.ema.load({k[4:]: v for k, v in tensors.items() if k.startswith("ema.")})


def save(state: State, folder: Path) -> Path:
    """Write a checkpoint of `state`, keep it and the one before; nothing half-written is left."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{state.step:08d}.safetensors"
    partial = folder / f".{target.name}.{os.getpid()}"
    tensors = {key: value.contiguous().cpu() for key, value in state.tensors().items()}
    try:
        save_file(tensors, partial, {"step": json.dumps(state.step)})
        partial.replace(target)
    except OSError as error:
        raise ValueError(f"cannot write the checkpoint {target}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    for old in checkpoints(folder)[:-_KEEP]:
        old.unlink()
    return target


def checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def resume(state: State, folder: Path) -> None:
    """Continue from the newest checkpoint in `folder`.

    Raises:
        ValueError: there is none, or it is of another network.
    """
    for partial in folder.glob(".step-*"):  # left by a killed process
        with contextlib.suppress(OSError):
            partial.unlink()
    files = checkpoints(folder)
    if not files:
        raise ValueError(f"nothing to resume: {folder} holds no checkpoint")
    tensors = read_safetensors(files[-1])
    wanted = {k: v.shape for k, v in state.tensors().items()}
    for key, shape in wanted.items():
        if key not in tensors or tensors[key].shape != shape:
            raise ValueError(f"{files[-1]} is of another network: {key} is missing or differs")
    state.load(tensors, int(files[-1].stem.removeprefix("step-")))
