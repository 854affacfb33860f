"""What a run would take, before it is started: parameters, operations, memory, time."""

import contextlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unclip.batch import Batch, on_device
from unclip.checks import many
from unclip.networks.clip_config import CLIP_SIZES, CLIPConfig, CLIPTextConfig
from unclip.stages.clip import ClipStage
from unclip.stages.recipe import Recipe
from unclip.stages.spec import StageSpec
from unclip.storage.folder import ModelFolder
from unclip.training.budget import check_images
from unclip.training.job import Folders, Job, build_job
from unclip.training.parallel import start_parallel
from unclip.training.report import duration
from unclip.training.speed import seconds_a_step
from unclip.training.validation import validates

S = TypeVar("S")
_PROBE = 2  # images that are really computed; the rest is proportion
_DRAWN = 64  # images of a batch
_STATE = 4 * 5  # bytes of a parameter: weight, average, gradient and two moments in fp32
_BEST = 4  # bytes of a parameter: its value in the best average, where held-out images are measured
_MOST = 2**27  # parameters of a network that is built to be measured
# What a network's settings say of data that a stage is measured on, and how much is enough here:
# 256 embeddings say well enough how many codes an autoregressive prior has.
_FEW = {"statistics": 256, "captions": 20_000}


@dataclass(frozen=True)
class Needs:
    """What a run of a recipe takes.

    Attributes:
        parameters: that are trained.
        operations: of a step, both passes; None where the network is too large to be built for it.
        state, activations: bytes, in fp32, of weights, average, gradients and AdamW's two moments;
            and of what the backward pass keeps of a part of a batch. The framework itself and
            transient buffers are left out.
        seconds: of a step, measured now on this machine; None as for operations.
        report: what there is to be said of the data.
        images: of the data; 0 where they have no end.
        resolution: pixels of a side at which CLIP sees them, if it is CLIP that is trained.
    """

    parameters: int
    operations: float | None = None
    state: int = 0
    activations: float = 0.0
    seconds: float | None = None
    report: str = ""
    images: int = 0
    resolution: int = 0


def plan(spec: StageSpec[S], recipe: Recipe[S], folders: Folders, device: str = "auto") -> str:
    """What a run would train and take, in about ten lines; see `needs`."""
    return "\n".join(_lines(spec.name, recipe, folders, needs(spec, recipe, folders, device)))


def needs(
    spec: StageSpec[S],
    recipe: Recipe[S],
    folders: Folders,
    device: str = "auto",
    keep: Callable[[Job], None] = lambda job: None,
) -> Needs:
    """Count one step of a recipe by computing it for two images, and time a few real ones.

    Args:
        keep: is given the job, before it is moved.

    Raises:
        ValueError: what would stop the run itself.
    """
    counted = _counted(spec, recipe, folders)
    if counted is not None and counted > _MOST:
        return Needs(counted, state=_state(recipe) * counted)
    parallel = start_parallel(device)
    part = recipe.training.batch_size // recipe.training.accumulation
    check_images(part, recipe.data.size)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # the data's report, which comes after every refusal
        job = build_job(spec, _sample_of(recipe), folders, parallel)
    keep(job)
    stage, place = job.stage, parallel.device
    few: Batch = {key: value[:_PROBE] for key, value in (job.data.example or {}).items()}
    example = on_device(few, place)
    network = stage.network.to(place).train()
    kept: dict[int, int] = {}
    with FlopCounterMode(display=False) as counter:
        with _saved_bytes(kept):
            loss = stage.loss(example, torch.Generator(place).manual_seed(0))["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
    network.zero_grad()
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    for tensor in (*network.parameters(), *network.buffers()):  # kept too, but there once
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return Needs(
        parameters,
        counter.get_total_flops() / _PROBE * recipe.training.batch_size,
        _state(recipe) * parameters,
        sum(kept.values()) * part / _PROBE,
        seconds_a_step(job, recipe.training.batch_size),
        "\n".join(
            filter(None, (said.getvalue().strip(), job.data.repeats(recipe.training.batch_size)))
        ),
        job.data.images,
        stage.network.config.vision.image_size if isinstance(stage, ClipStage) else 0,
    )


def _state(recipe: Recipe[Any]) -> int:
    """Bytes that a run keeps of each parameter."""
    return _STATE + (_BEST if validates(recipe) else 0)


def _lines(stage: str, recipe: Recipe[S], folders: Folders, takes: Needs) -> list[str]:
    training = recipe.training
    read = training.steps * training.batch_size
    epochs = f": {read / takes.images:,.3g} epochs" if takes.images else ""
    seen = f", which it sees at {takes.resolution}" * (takes.resolution > 0)
    lines = [
        *([takes.report] if takes.report else []),
        f"trained              {stage}, on images of {recipe.data.size} px{seen}",
        f"trained parameters   {takes.parameters:,}",
        f"steps                {training.steps:,} of {training.batch_size:,} images{epochs}",
    ]
    if takes.operations is None:
        lines += [
            f"operations per step  not counted, which needs the network: over {_MOST:,} parameters",
            f"memory, about        {takes.state / 2**20:,.0f} MiB in fp32 of weights and "
            "optimiser, and more of activations",
        ]
    else:
        part = training.batch_size // training.accumulation
        seconds = takes.seconds or 0.0
        lines += [
            f"operations per step  {takes.operations / 1e9:,.1f} GFLOP, backward included; "
            f"in all {takes.operations * training.steps / 1e15:,.3f} PFLOP",
            f"memory, about        {(takes.state + takes.activations) / 2**20:,.0f} MiB in fp32: "
            f"{takes.state / 2**20:,.0f} of weights and optimiser, "
            f"{takes.activations / 2**20:,.0f} of activations for {many(part, 'images')}",
            f"time, about          {duration(seconds * training.steps)} on this machine, at "
            f"{seconds:.2g} s a step, measured now",
        ]
    return [
        *lines,
        f"written to           {folders.model}; the run to {folders.run}",
    ]


def _counted(spec: StageSpec[S], recipe: Recipe[S], folders: Folders) -> int | None:
    """The parameters of the network, which is built without memory; None where `build` must say.

    A folder without a CLIP is taken to get that of the network's size, so that a whole model can be
    planned before any of it is trained.
    """
    if spec.network is None or recipe.training.init:
        return None
    folder, size = ModelFolder(folders.model), getattr(recipe.network, "size", "")
    if folder.has("text_encoder"):
        text = CLIPTextConfig.from_json(folder.config("text_encoder"), str(folder.path))
    else:
        text = CLIPConfig.preset(size if size in CLIP_SIZES else "small").text
    with torch.device("meta"):
        network = spec.network(recipe.network, text, recipe.data.size)
    return sum(p.numel() for p in network.parameters())


def _sample_of(recipe: Recipe[S]) -> Recipe[S]:
    """The same recipe with as little data as says what a run takes, and no worker processes."""
    network: Any = recipe.network
    few = {name: min(getattr(network, name), most)
           for name, most in _FEW.items() if hasattr(network, name)}  # fmt: skip
    batch = min(_DRAWN, recipe.training.batch_size // recipe.training.accumulation)
    return replace(
        recipe,
        network=replace(network, **few),
        data=replace(recipe.data, workers=0),
        training=replace(recipe.training, batch_size=batch, accumulation=1, validate_every=0),
    )


@contextmanager
def _saved_bytes(kept: dict[int, int]) -> Iterator[None]:
    """Note the size of every tensor that autograd keeps, each storage once."""

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
