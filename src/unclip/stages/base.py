"""What every stage is: trainable networks joined to their process, with `loss` and `sample`."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from unclip.batch import Batch
from unclip.diffusion.schedules import DiffusionConfig
from unclip.networks.unet_config import UNetConfig
from unclip.storage.folder import ModelFolder

ComponentClasses = Mapping[str, tuple[str, ...]]
"""What lies in a model folder, by name: the classes that `model_index.json` may name for it.

Libraries are not read: text_proj is "unclip" in published folders and "diffusers" in those that
diffusers writes since 0.42."""
SCHEDULER = ("UnCLIPScheduler",)


class Replicas(Protocol):
    """What a stage may know of the processes that share a batch with it."""

    @property
    def rank(self) -> int:
        """Which of them this one is, from 0."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Rows (N, …) of this process → those of all (M, …), by rank, with gradients to each.

        All processes call it together.
        """
        ...


class Stage(Protocol):
    """One thing that the paper trains.

    `network` holds what is trained and nothing else; frozen parts (CLIP) are kept beside it. The
    training loop asks for `loss`, now and then for `preview`, and calls `save` with the weights to
    publish. `sample` differs from stage to stage: what goes in is what the stage is conditioned on.
    """

    @property
    def network(self) -> nn.Module: ...

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars; "loss" is minimised, the others are logged. All randomness is `generator`'s."""
        ...

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """Rows of images (R, C, 3, H, W) in [-1, 1] that show how far training is, if any."""
        ...

    def save(self, folder: ModelFolder) -> None:
        """Write the components that `network` holds into a model folder."""
        ...


@runtime_checkable
class LearnsFromItself(Protocol):
    """A stage whose targets are what the average of its own weights gives.

    Attributes:
        averaged: a block in which `network` has the averaged weights, for passes without gradients;
            training gives it, and until then it changes nothing.
    """

    averaged: Callable[[], AbstractContextManager[None]]


def check_channels(config: UNetConfig, inputs: int, process: DiffusionConfig, where: str) -> None:
    """Refuse a U-Net for RGB images whose channels do not fit its use or its process."""
    outputs = 6 if process.variance_type == "learned_range" else 3
    if (config.in_channels, config.out_channels) != (inputs, outputs):
        raise ValueError(
            f"{where} has {config.in_channels} channels in and {config.out_channels} out; "
            f"its use here and variance_type {process.variance_type!r} need {inputs} and {outputs}"
        )
