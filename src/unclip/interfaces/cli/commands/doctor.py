"""`unclip doctor`: what this machine has, and what would be used."""

import importlib.util
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from unclip.checks import many
from unclip.interfaces.cli.options import parse

# module, which is its package's name too: what it brings
_OPTIONAL = {
    "emoji": "names of emoji in the built-in world",
    "openvino": "U-Nets on CPUs (--engine openvino)",
    "tensorboard": "curves and previews of training in TensorBoard",
    "wandb": "the same at Weights & Biases (--training.loggers wandb)",
}
_EXTRAS = {"emoji": "train", "tensorboard": "train"}
"""The extras that bring them, where those have other names."""
_WORTH = 1.1  # times as fast: less may be chance


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip doctor` say, and give the exit code."""
    parse(_nothing, "doctor", arguments)
    for key, value in diagnosis().items():
        print(f"{key:<22}{value}")
    return 0


def _nothing() -> None:
    """Say what this machine has, and what unclip would use."""


def diagnosis() -> dict[str, Any]:
    """Versions, devices, measured speeds, fonts and extras."""
    import torch

    from unclip import __version__
    from unclip.device.precision import fastest_dtype, matmul_speeds, name_of
    from unclip.storage.folder import bundled

    cores = many(os.cpu_count() or 1, "cores")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: dict[str, Any] = {
        "unclip": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": f"{cores}, {many(torch.get_num_threads(), 'threads')} used",
        "instructions": _instructions(),
        "memory": _memory(),
        "GPU": torch.cuda.get_device_name() if device == "cuda" else "none",
    }
    for dtype, speed in matmul_speeds(1024).items():
        rows[f"{name_of(dtype)} product"] = f"{speed / 1e9:,.0f} GFLOP/s on the CPU"
    rows["threads"] = _threads()
    rows["would use"] = f"{name_of(fastest_dtype(device))} on {device}"
    rows["emoji font"] = _font()
    for module, what in _OPTIONAL.items():
        there = importlib.util.find_spec(module) is not None
        extra = _EXTRAS.get(module, module)
        state = _version(module) if there else f"absent (pip install 'unclip[{extra}]')"
        rows[module] = f"{state}: {what}"
    model = bundled("model")
    rows["bundled model"] = model if model.is_dir() else "absent"
    rows["engines"] = _engines() if model.is_dir() else "no model to measure"
    return rows


def _instructions() -> str:
    """What products on the CPU can be made of, and what it would emulate."""
    from unclip.device.instructions import instructions
    from unclip.device.precision import DTYPES

    cpu = instructions()
    has = {name: dtype in cpu.multiplied for name, dtype in DTYPES.items()} | {"int8": cpu.int8}
    lacking = [name for name, there in has.items() if not there]
    said = f"{cpu.kernels}; products in {', '.join(name for name, there in has.items() if there)}"
    return f"{said}; without instructions for {', '.join(lacking)}" if lacking else said


def _threads() -> str:
    """Small layers on one thread and on two, and what follows."""
    from unclip.device.threads import layer_seconds

    if (os.cpu_count() or 1) < 2:
        return "one core, one thread"
    one, two = layer_seconds(1), layer_seconds(2)
    said = f"a small layer takes {one * 1e6:,.0f} µs on one, {two * 1e6:,.0f} µs on two"
    return f"{said}: with OMP_NUM_THREADS=1 small models are faster" if two > 1.5 * one else said


def _engines() -> str:
    """A step of the bundled decoder on the CPU in torch and in OpenVINO, and what follows."""
    if importlib.util.find_spec("openvino") is None:
        return "torch; openvino is not installed (pip install 'unclip[openvino]')"
    from unclip.acceleration.engines import step_seconds
    from unclip.pipeline.pipeline import Pipeline

    took = step_seconds(Pipeline.from_pretrained(device="cpu").decoder.network.decoder)
    torch, openvino = took["torch"], took["openvino"]
    steps = f"{torch * 1e3:.0f} ms in torch, {openvino * 1e3:.0f} ms in OpenVINO"
    said = f"a step of the decoder takes {steps}"
    if openvino * _WORTH > torch:
        return said
    return f"{said}: --engine openvino makes images of small models faster"


def _version(module: str) -> str:
    try:
        return version(module)
    except PackageNotFoundError:
        return "there"


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return "unknown"
    return f"{size / 2**30:.1f} GiB"


def _font() -> str:
    from unclip.data.world.glyphs import find_font

    try:
        return str(find_font().path)
    except ValueError as error:
        return str(error)
