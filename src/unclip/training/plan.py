"""What a run would take, before it is started: parameters, operations, memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unclip.batch import Batch, on_device
from unclip.checks import many
from unclip.networks.clip_config import CLIP_SIZES, CLIPConfig, CLIPTextConfig
from unclip.stages.recipe import Recipe
from unclip.stages.spec import StageSpec
from unclip.storage.folder import ModelFolder
from unclip.training.budget import check_images
from unclip.training.job import Folders, build_job
from unclip.training.parallel import start_parallel
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


def plan(spec: StageSpec[S], recipe: Recipe[S], folders: Folders, device: str = "auto") -> str:
    """Count one step of a recipe by computing it for two images.

    Memory is weights, average, gradients and AdamW's two moments in fp32, and what the backward
    pass keeps; it leaves out the framework itself and transient buffers.
    """
    counted = _counted(spec, recipe, folders)
    if counted is not None and counted > _MOST:
        return _of_a_large_network(counted, _state(recipe), folders)
    parallel = start_parallel(device)
    part = recipe.training.batch_size // recipe.training.accumulation
    check_images(part, recipe.data.size)
    job = build_job(spec, _sample_of(recipe), folders, parallel)
    stage, place = job.stage, parallel.device
    few: Batch = {key: value[:_PROBE] for key, value in (job.data.example or {}).items()}
    example = on_device(few, place)
    network = stage.network.to(place).train()
    kept: dict[int, int] = {}
    with FlopCounterMode(display=False) as counter:
        with _saved_bytes(kept):
            loss = stage.loss(example, torch.Generator(place).manual_seed(0))["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    operations = counter.get_total_flops() / _PROBE * recipe.training.batch_size
    state = _state(recipe) * parameters
    for tensor in (*network.parameters(), *network.buffers()):  # kept too, but there once
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    activations = sum(kept.values()) * part / _PROBE
    repeats = job.data.repeats(recipe.training.batch_size)
    return "\n".join(
        [
            *([repeats] if repeats else []),
            f"trained parameters   {parameters:,}",
            f"operations per step  {operations / 1e9:,.1f} GFLOP, backward included",
            f"operations in all    {operations * recipe.training.steps / 1e15:,.3f} PFLOP",
            f"memory, about        {(state + activations) / 2**20:,.0f} MiB in fp32: "
            f"{state / 2**20:,.0f} of weights and optimiser, {activations / 2**20:,.0f} of "
            f"activations for {many(part, 'images')}",
            f"model folder         {folders.model}",
            f"run folder           {folders.run}",
        ]
    )


def _state(recipe: Recipe[Any]) -> int:
    """Bytes that a run keeps of each parameter."""
    return _STATE + (_BEST if validates(recipe) else 0)


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


def _of_a_large_network(parameters: int, state: int, folders: Folders) -> str:
    """What can be said without computing anything."""
    return "\n".join(
        [
            f"trained parameters   {parameters:,}",
            f"operations per step  not counted, which needs the network: over {_MOST:,} parameters",
            f"memory, about        {state * parameters / 2**20:,.0f} MiB in fp32 of weights and "
            "optimiser, and more of activations",
            f"model folder         {folders.model}",
            f"run folder           {folders.run}",
        ]
    )


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
