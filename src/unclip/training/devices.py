"""What a run takes of each of many devices: memory, whole and sharded, and days."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unclip.checks import many
from unclip.stages.recipe import Recipe
from unclip.training.budget import TRAINED
from unclip.training.estimate import Estimate
from unclip.training.report import duration
from unclip.training.validation import validates

_FP32, _GIB = 4, 2**30
_BF16 = 0.5  # of the bytes of fp32


@dataclass(frozen=True)
class Devices:
    """What is asked of a dry run.

    Args:
        count: processes, each with a device of its own.
        rate: operations a second that each of them is taken to do.
        measured: what that was measured on, if it was.
    """

    count: int
    rate: float
    measured: str = ""


def check_processes(recipe: Recipe[Any], count: int) -> None:
    """Refuse a batch that so many processes cannot share.

    Raises:
        ValueError: its parts do not split.
    """
    training = recipe.training
    if training.batch_size % (training.accumulation * count):
        raise ValueError(
            f"training.batch_size {training.batch_size} does not split over {count} processes"
            + (f" in {training.accumulation} parts" if training.accumulation > 1 else "")
            + f"; take a multiple of {training.accumulation * count}"
        )


def state_of(recipe: Recipe[Any]) -> dict[str, int]:
    """Bytes that a run keeps of each parameter, by what they are: the moving average and, where
    held-out images are measured, the best one too."""
    return {**TRAINED, "averages": _FP32 * (2 if validates(recipe) else 1)}


def memory_lines(
    recipe: Recipe[Any], parameters: int, takes: Estimate, devices: Devices
) -> list[str]:
    """Memory of each device, with everything in each (DDP) and sharded (`training.shard`), and what
    is reckoned."""
    training = recipe.training
    images = training.batch_size // (training.accumulation * devices.count)
    half = training.precision != "fp32"
    scale = images * (_BF16 if half else 1.0)
    kept, checkpointed = takes.kept * scale, takes.checkpointed * scale
    whole: dict[str, float] = {name: size * parameters for name, size in state_of(recipe).items()}
    shards = {name: size / devices.count for name, size in whole.items()}
    # Two units are there whole at a time, the one that computes and the next.
    shards["whole blocks"] = 2 * _FP32 * takes.largest * (_BF16 if half else 1.0)
    said = "bf16" if half else "fp32"
    reckoned = (
        "weights, gradients, AdamW's moments and averages in fp32; activations are every tensor "
        f"that the backward pass keeps, counted without memory, in {said}; checkpointed "
        "(--training.checkpoint-activations), each block's input and all of one block; the frozen "
        "CLIP and what torch takes are left out"
    )
    lines = [
        f"devices              {devices.count:,}, {many(images, 'images')} each at a time",
        f"memory of each       {_sum({**whole, 'activations': kept})}",
        f"  checkpointed       {_sum({**whole, 'activations': checkpointed})}",
    ]
    if devices.count > 1:
        lines += [
            f"  sharded            {_sum({**shards, 'activations': kept})}",
            f"  both               {_sum({**shards, 'activations': checkpointed})}",
        ]
    return [*lines, f"reckoned             {reckoned}"]


def time_line(operations: float, steps: int, devices: Devices) -> str:
    """How long all steps take at the rate that is stated."""
    seconds = operations * steps / (devices.count * devices.rate)
    where = f"on {many(devices.count, 'devices')} at {devices.rate / 1e12:,.3g} TFLOP/s each"
    why = f", {devices.measured}; --rate says another" if devices.measured else " (--rate)"
    return f"time, about          {duration(seconds)} {where}{why}"


def _sum(parts: Mapping[str, float]) -> str:
    named = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items())
    return f"{_gib(sum(parts.values()))} GiB: {named}"


def _gib(size: float) -> str:
    return f"{size / _GIB:,.1f}" if size >= _GIB else f"{size / _GIB:.2g}"
