"""Recipes: everything that decides a training run, in one frozen dataclass per stage.

A recipe is a TOML file (see `recipes/`), every field of it is also a flag of `unclip train`, and
the resolved recipe is written into the run, so that a run can be repeated from it alone.
"""

from dataclasses import dataclass, field
from typing import Literal

from unclip.checks import shown
from unclip.data.emoji import WorldConfig
from unclip.models.precision import PRECISIONS


@dataclass(frozen=True)
class Data:
    """Where the captioned images come from."""

    source: str = "emoji"  # the built-in world, or a folder of captioned images
    size: int = 64  # pixels of a side
    workers: int = 1  # processes that load and render
    held_out: float = 0.0  # fraction of a folder's images kept for evaluation, by their names
    world: WorldConfig = field(default_factory=WorldConfig)  # options of the built-in world

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ValueError(f"data.size is {self.size}; images need at least 8 pixels a side")
        if self.workers < 0:
            raise ValueError(f"data.workers is {self.workers}; it must not be negative")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"data.held_out is {shown(self.held_out)}; it must be in [0, 1)")
        if self.held_out and self.is_world:
            raise ValueError(
                "data.held_out is for folders of images; the built-in world holds out combinations "
                "of its own"
            )
        known = WorldConfig()
        if (self.world.size, self.world.split) != (known.size, known.split):
            raise ValueError(
                "data.world.size and data.world.split decide nothing here: data.size is the "
                "images' size, and training takes the training split"
            )

    @property
    def is_world(self) -> bool:
        """Whether the source is the built-in world, and no folder."""
        return self.source.partition(":")[0] == "emoji"


@dataclass(frozen=True)
class Optimiser:
    """The optimiser and its schedule; the defaults are Adam's, each recipe states its own."""

    kind: Literal["adamw", "muon"] = "adamw"  # muon: for hidden matrices and kernels, see muon.py
    learning_rate: float = 3e-4
    matrix_rate: float = 1e-3  # muon's learning rate; the other parameters have `learning_rate`
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    warmup: int = 100  # steps of linear warm-up
    decay: float = 0.0  # last fraction of the run that a cosine takes to zero; 0: constant
    clip: float = 1.0  # largest gradient norm
    rho: float = 0.0  # radius of sharpness-aware minimisation, see sam.py; 0: off

    def __post_init__(self) -> None:
        for name in ("learning_rate", "matrix_rate", "eps", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"optimiser.{name} is {getattr(self, name)}; it must be positive")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimiser.{name} must be in [0, 1)")
        if not 0 <= self.decay <= 1 or self.warmup < 0 or self.weight_decay < 0:
            raise ValueError("optimiser: decay must be in [0, 1], warmup and weight_decay ≥ 0")
        if not self.rho >= 0:
            raise ValueError(f"optimiser.rho is {self.rho}; it must be 0 or more")


@dataclass(frozen=True)
class Training:
    """The loop's own settings, the same for every stage."""

    steps: int = 10_000
    batch_size: int = 64  # over all processes and accumulated parts
    accumulation: int = 1  # parts that a batch is computed in
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    ema: float = 0.9999  # decay of the averaged weights, which are the ones published
    seed: int = 0
    init: str = ""  # a model (folder or hf:owner/model) whose weights are trained further
    log_every: int = 50
    preview_every: int = 1000  # 0: never
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} is {getattr(self, name)}; it must be at least 1")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"training.batch_size {self.batch_size} does not split into "
                f"{self.accumulation} equal parts (training.accumulation)"
            )
        if not 0 <= self.ema < 1:
            raise ValueError(f"training.ema is {self.ema}; it must be in [0, 1)")
        assert self.precision in PRECISIONS
