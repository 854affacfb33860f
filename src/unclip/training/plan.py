"""What a run would take, before it is started: parameters, operations, memory, time."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import nn

from unclip.checks import many
from unclip.device.precision import device_named, dtype_named, name_of, peak_speed
from unclip.device.shapes import on_meta
from unclip.networks.clip_config import CLIP_SIZES, CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from unclip.stages.clip import ClipStage
from unclip.stages.recipe import Recipe
from unclip.stages.spec import StageSpec
from unclip.storage.folder import ModelFolder
from unclip.training.budget import check_images
from unclip.training.counting import counted
from unclip.training.devices import (
    Devices,
    check_processes,
    memory_lines,
    state_of,
    time_line,
)
from unclip.training.estimate import Estimate, estimated
from unclip.training.job import Folders, Job, build_job
from unclip.training.parallel import start_parallel
from unclip.training.report import duration
from unclip.training.speed import seconds_a_step
from unclip.training.units import checkpoint_units

S = TypeVar("S")
_DRAWN = 64  # images of a batch
_MOST = 2**27  # parameters of a network that is built to be measured
# What a network's settings say of data that a stage is measured on, and how much is enough here:
# 256 embeddings say well enough how many codes an autoregressive prior has.
_FEW = {"statistics": 256, "captions": 20_000}


@dataclass(frozen=True)
class Elsewhere:
    """Other machines than this one, that a run is planned for.

    Args:
        processes: how many, each with a device of its own.
        rate: operations a second of each; measured here if left out.
    """

    processes: int = 1
    rate: float | None = None


@dataclass(frozen=True)
class Needs:
    """What a run of a recipe takes.

    Attributes:
        parameters: that are trained.
        operations: of a step, both passes; None where nothing says how its stage is counted.
        state, activations: bytes, in fp32, of weights, average, gradients and AdamW's two moments;
            and of what the backward pass keeps of a part of a batch. The framework itself and
            transient buffers are left out.
        seconds: of a step, measured now on this machine; None where the network is too large to be
            built for it.
        report: what there is to be said of the data.
        images: of the data; 0 where they have no end.
        resolution: pixels of a side at which CLIP sees them, if it is CLIP that is trained.
        estimate: of one image, counted without memory, where that is asked for or the network is
            large.
    """

    parameters: int
    operations: float | None = None
    state: int = 0
    activations: float = 0.0
    seconds: float | None = None
    report: str = ""
    images: int = 0
    resolution: int = 0
    estimate: Estimate | None = None


def plan(
    spec: StageSpec[S],
    recipe: Recipe[S],
    folders: Folders,
    device: str = "auto",
    elsewhere: Elsewhere | None = None,
) -> str:
    """What a run would train and take, in about ten lines; see `needs`.

    Raises:
        ValueError: what would stop the run itself, or nothing says how such a stage is counted.
    """
    if elsewhere is not None:
        check_processes(recipe, elsewhere.processes)
    takes = needs(spec, recipe, folders, device)
    if elsewhere is not None and takes.estimate is None:
        takes = replace(takes, estimate=_estimate(spec, recipe, folders))
    lines = _lines(spec.name, recipe, folders, takes)
    if takes.estimate is not None:
        devices = _devices(elsewhere or Elsewhere(), recipe, device)
        lines[-1:-1] = memory_lines(recipe, takes.parameters, takes.estimate, devices)
        operations = takes.operations or 0.0
        lines[-1:-1] = [time_line(operations, recipe.training.steps, devices)]
    return "\n".join(lines)


def _devices(elsewhere: Elsewhere, recipe: Recipe[Any], device: str) -> Devices:
    """With the rate that is stated, or what products reach here."""
    if elsewhere.rate is not None:
        return Devices(elsewhere.processes, elsewhere.rate)
    place = device_named(device)
    dtype = dtype_named(recipe.training.precision, place)
    measured = f"as products in {name_of(dtype)} reach here"
    return Devices(elsewhere.processes, peak_speed(dtype, place), measured)


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
    passes = 2 if recipe.optimiser.rho else 1  # sharpness-aware minimisation takes two
    state = sum(state_of(recipe).values())
    counts = _counted(spec, recipe, folders)
    if counts is not None and counts > _MOST:
        estimate = _estimate(spec, recipe, folders)
        operations = estimate.operations * passes * recipe.training.batch_size
        return Needs(counts, operations, state * counts, estimate=estimate)
    parallel = start_parallel(device)
    part = recipe.training.batch_size // recipe.training.accumulation
    check_images(part, recipe.data.size)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # the data's report, which comes after every refusal
        job = build_job(spec, _sample_of(recipe), folders, parallel)
    keep(job)
    stage, place = job.stage, parallel.device
    network = stage.network.to(place).train()
    if recipe.training.checkpoint_activations:
        checkpoint_units(network)
    found = counted(stage.loss, network, job.data.example or {}, place)
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Needs(
        parameters,
        found.operations * passes * recipe.training.batch_size,
        state * parameters,
        found.kept * part,
        seconds_a_step(job, recipe.training.batch_size),
        "\n".join(
            filter(None, (said.getvalue().strip(), job.data.repeats(recipe.training.batch_size)))
        ),
        job.data.images,
        stage.network.config.vision.image_size if isinstance(stage, ClipStage) else 0,
    )


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
    if takes.operations is not None:
        lines.append(
            f"operations per step  {_flop(takes.operations)}, backward included; "
            f"in all {_flop(takes.operations * training.steps)}"
        )
    if takes.seconds is not None:
        part, seconds = training.batch_size // training.accumulation, takes.seconds
        lines += [
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


def _flop(operations: float) -> str:
    """Operations in the largest unit of which there is one."""
    units = (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9))
    unit, size = next((one for one in units if operations >= one[1]), units[-1])
    number = operations / size
    return f"{number:,.0f} {unit}" if number >= 1000 else f"{number:.3g} {unit}"


def _counted(spec: StageSpec[S], recipe: Recipe[S], folders: Folders) -> int | None:
    """The parameters of the network, which is built without memory; None where `build` must say."""
    network = _network(spec, recipe, _listened(recipe, folders))
    return None if network is None else sum(p.numel() for p in network.parameters())


def _estimate(spec: StageSpec[S], recipe: Recipe[S], folders: Folders) -> Estimate:
    """What an image takes, counted without memory, where the stage says how.

    Raises:
        ValueError: it does not.
    """
    clip = _listened(recipe, folders)
    network = _network(spec, recipe, clip)
    if network is None or spec.probe is None:
        raise ValueError(f"nothing says how a {spec.name} is counted for other machines")
    return estimated(spec.probe, network, recipe.network, clip, recipe.data.size)


def _network(spec: StageSpec[S], recipe: Recipe[S], clip: CLIPConfig) -> nn.Module | None:
    if spec.network is None:
        return None
    with on_meta():
        return spec.network(recipe.network, clip.text, recipe.data.size)


def _listened(recipe: Recipe[Any], folders: Folders) -> CLIPConfig:
    """The CLIP that a stage listens to.

    A folder without one is taken to get that of the network's size, so that a whole model can be
    planned before any of it is trained.
    """
    folder, size = ModelFolder(folders.model), getattr(recipe.network, "size", "")
    preset = CLIPConfig.preset(size if size in CLIP_SIZES else "small")
    if not folder.has("text_encoder"):
        return preset
    text = CLIPTextConfig.from_json(folder.config("text_encoder"), str(folder.path))
    image = replace(preset.vision, projection_dim=text.projection_dim)
    if folder.has("image_encoder"):
        image = CLIPVisionConfig.from_json(folder.config("image_encoder"), str(folder.path))
    return CLIPConfig(text, image)


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
        training=replace(
            recipe.training, batch_size=batch, accumulation=1, validate_every=0, compile=False
        ),
    )
