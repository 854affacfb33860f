"""Recipes: everything that decides a training run, in one frozen dataclass per stage.

A recipe is a TOML file (see `recipes/`), every field of it is also a flag of `unclip train`, and
the resolved recipe is written into the run, so that a run can be repeated from it alone.
"""

from dataclasses import dataclass, field
from typing import Annotated, Generic, Literal, TypeVar

from unclip.checks import shown
from unclip.config import Also, Between, Checked, Count, Positive, Probability, Seed
from unclip.data.flips import flipped
from unclip.data.registry import FORMATS, HELD_OUT, format_of, open_source, parse
from unclip.data.sources import Source, Stream
from unclip.data.world.scene import WorldConfig
from unclip.device.names import PRECISIONS, usual

S = TypeVar("S")
Averaging = Annotated[float, Between(0, 0.9999999)]  # how much of a running mean stays in a step
BatchSize = Annotated[int, Between(1, 2**20)]


@dataclass(frozen=True)
class Data(Checked):
    """Where the captioned images come from."""

    # source: the built-in world (emoji, emoji:shapes), a folder, or another of data/registry.py
    source: str = "emoji"
    size: Annotated[int, Between(8, 4096)] = 64  # pixels of a side
    workers: Annotated[int, Between(0, 256)] = 1  # processes that load and render images
    # fraction of a folder's images that training does not see; that of the model's other stages, or
    # 0.05, if left out
    held_out: Annotated[float, Between(0, 0.99)] | None = None
    # part of an oblong image that training sees, in each epoch
    crop: Literal["random", "centre"] = "random"
    # mirroring of every second image in training, but of none whose caption says left or right
    flip: bool = False
    # caption of images that only a class is known of, such as "a photo of a {}"
    template: str = ""
    # folder of precomputed embeddings of this data, as `unclip embed SOURCE -o DIR` writes it;
    # priors then need no data.source
    embeddings: str = ""
    world: WorldConfig = field(default_factory=WorldConfig)  # options of the built-in world

    def __post_init__(self) -> None:
        super().__post_init__()
        kind, _ = parse(self.source)
        if self.held_out and not self.by_fraction:
            what = {"itself": "a part of its own", "nothing": "nothing"}
            raise ValueError(
                "data.held_out is for data such as a folder of images; "
                f"{kind} data holds out {what[FORMATS[kind].holds_out]}"
            )
        if self.template and "{}" not in self.template:
            raise ValueError(
                f"data.template is {shown(self.template)}; it needs {{}} for the class's name"
            )
        if self.embeddings and self.flip:
            raise ValueError(
                "data.flip mirrors images, but data.embeddings are of images as they are: leave "
                "one of them out"
            )
        self.world.check_undecided(
            "data.world", "data.size is the images' size, and training takes the training split"
        )

    @property
    def by_fraction(self) -> bool:
        """Whether this data holds out what `held_out` says."""
        return self.embeddings_alone or format_of(self.source).holds_out == "fraction"

    @property
    def embeddings_alone(self) -> bool:
        """Whether embeddings are all that is given: the built-in world, which is read where nothing
        is named, has none."""
        return bool(self.embeddings) and FORMATS[parse(self.source)[0]].alone

    @property
    def fraction(self) -> float:
        """`held_out`, or the default of this kind of data."""
        if self.held_out is not None:
            return self.held_out
        return HELD_OUT if self.by_fraction else 0.0


@dataclass(frozen=True)
class Optimiser(Checked):
    """The optimiser and its schedule; the defaults are Adam's, each recipe states its own."""

    # algorithm; muon is for hidden matrices and kernels, beside adamw
    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: Positive = 3e-4  # learning rate at its highest
    matrix_rate: Positive = 1e-3  # muon's learning rate; the other parameters have learning_rate
    # weight decay, decoupled from the gradient
    weight_decay: Annotated[float, Between(0, 1e6)] = 0.0
    beta1: Averaging = 0.9  # decay of the mean gradient
    beta2: Averaging = 0.999  # decay of the mean squared gradient
    eps: Positive = 1e-8  # number added to the root of the mean square
    warmup: Annotated[int, Between(0, 10**9)] = 100  # steps of linear warm-up
    decay: Probability = 0.0  # last fraction of the run, in which a cosine falls to zero; 0: none
    clip: Positive = 1.0  # largest gradient norm
    rho: Annotated[float, Between(0, 1e6)] = 0.0  # radius of sharpness-aware minimisation; 0: off


@dataclass(frozen=True)
class Training(Checked):
    """The loop's own settings, the same for every stage."""

    steps: Count = 10_000  # steps of the whole run
    batch_size: BatchSize = 64  # images a step, over all processes and accumulated parts
    accumulation: BatchSize = 1  # parts that a batch is computed in
    # number format of the networks; auto takes the faster of fp32 and bf16
    precision: Annotated[Literal["auto", "fp32", "bf16"], Also(usual)] = "auto"
    # shards of weights, moments and averages, one for each process (FSDP2), where else each has all
    # of them (DDP)
    shard: bool = False
    # recomputation of a network's blocks in the backward pass, which then keeps their inputs alone:
    # less memory, more time
    checkpoint_activations: bool = False
    compile: bool = False  # compilation of the network's blocks by torch
    ema: Averaging = 0.9999  # decay of the averaged weights, which are the ones published
    seed: Seed = 0  # seed of weights, noise and order
    # model whose weights are trained further: bundled, a folder or hf:owner/model
    init: str = ""
    log_every: Count = 50  # steps between two lines of metrics
    log_samples: bool = False  # lines of every step's samples, by number, in samples.jsonl
    # steps between two measurements on held-out images; 0: none; about 4 % of the time if left out
    validate_every: Annotated[int, Between(0, 10**9)] | None = None
    preview_every: Annotated[int, Between(0, 10**9)] = 1000  # steps between two previews; 0: none
    checkpoint_every: Count = 500  # steps between two checkpoints
    # loggers that metrics and previews go to besides the run's folder: tensorboard (if that is
    # installed), wandb
    loggers: Annotated[tuple[str, ...], Between(0, 8)] = ("tensorboard",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"training.batch_size {self.batch_size} does not split into "
                f"{self.accumulation} equal parts (training.accumulation)"
            )
        assert self.precision in PRECISIONS


@dataclass(frozen=True)
class Recipe(Generic[S]):
    """Everything that decides a run of one stage."""

    network: S
    data: Data
    training: Training
    optimiser: Optimiser


def open_data(data: Data, split: str = "train") -> Source | Stream:
    """The recipe's data source."""
    source = open_source(
        data.source, size=data.size, split=split, held_out=data.fraction,
        options={"emoji": data.world}, crop=data.crop, template=data.template,
    )  # fmt: skip
    return flipped(source, data.world.seed) if data.flip and split == "train" else source
