"""Where and in which precision to compute: of what the device has, what is faster."""

import functools
import os
import time
from collections.abc import Callable

import torch

from unclip.checks import shown
from unclip.device.instructions import instructions
from unclip.device.names import PRECISIONS, usual

# fp16 and int8 are for sampling only: training underflows in the one, the other has no gradients.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ENOUGH = 0.5  # seconds of a measurement
_LARGE = 1024  # rows of a product that shows what a CPU can do
_NAMED = {**DTYPES, "int8": torch.int8}


def device_named(name: str | torch.device) -> torch.device:
    """The device, if this machine has it; "auto" is a GPU where there is one.

    Raises:
        ValueError: there is no such device, or none that computes.
    """
    if not isinstance(name, str | torch.device):
        raise ValueError(f"device is {shown(name)}; give a name such as 'cpu' or 'cuda'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # which the device "meta" does not have
    except Exception as error:  # every back end has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120].rstrip(".")
        if reason.startswith("Expected one of"):  # all that torch has ever run on
            reason = "there is no such device; give auto, cpu, cuda, cuda:1 or mps"
        raise ValueError(f"cannot compute on the device {shown(str(name))}: {reason}") from None
    return device


def device_of_process(name: str | torch.device) -> torch.device:
    """`device_named`; of several GPUs, where none is named, that of this process of torchrun's.

    Raises:
        ValueError: see `device_named`.
    """
    device = device_named(name)
    if device.type == "cuda" and device.index is None:
        return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
    return device


def dtype_named(precision: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The data type that `precision`, one of `PRECISIONS`, torch's name or a type itself, means on
    `device`.

    Raises:
        ValueError: it is none of them, or int8 where that is not fast.
    """
    if isinstance(precision, torch.dtype):
        precision = next((n for n, t in _NAMED.items() if t == precision), str(precision))
    precision = str(usual(precision)) if isinstance(precision, str) else precision
    if not (isinstance(precision, str) and precision in PRECISIONS):
        raise ValueError(f"precision {shown(precision)} is not one of {', '.join(PRECISIONS)}")
    if precision == "int8":
        check_int8(device)
    return fastest_dtype(device.type) if precision == "auto" else _NAMED[precision]


def check_int8(device: torch.device) -> None:
    """Refuse a device, CPU or torch without fast integer products.

    Raises:
        ValueError: it has none.
    """
    if device.type != "cpu":
        raise ValueError(f"int8 is for CPUs; on the device {device} take bf16, fp16 or fp32")
    cpu = instructions()  # without those for 8 bits sums are kept in 16 bits, which overflow
    kernels = ("qconv_pointwise", "qconv_prepack", "qlinear_pointwise", "qlinear_prepack")
    if not cpu.int8 or not all(hasattr(torch.ops.onednn, name) for name in kernels):
        lacking = "this torch" if cpu.int8 else "this CPU"
        others = "bf16 or fp32" if torch.bfloat16 in cpu.multiplied else "fp32"
        raise ValueError(f"{lacking} has no fast products of 8-bit integers: take {others}")


def name_of(dtype: torch.dtype) -> str:
    """The name, "fp32", "bf16", "fp16" or "int8", of a data type that `resolve` gave."""
    return next(name for name, known in _NAMED.items() if known == dtype)


def full_precision(device: torch.device) -> torch.autocast:
    """A block in which autocast is off: for what is not a network and needs fp32."""
    return torch.autocast(device.type, enabled=False)


@functools.cache
def fastest_dtype(device_type: str) -> torch.dtype:
    """bf16 where the device has instructions for it and is faster with it, else fp32.

    On a CUDA device that has them it is; on a CPU a product of 512 × 512 matrices is timed.
    """
    types = types_of(device_type)
    if device_type != "cpu" or len(types) == 1:
        return types[-1]
    speeds = matmul_speeds(512)
    return max(types, key=lambda dtype: speeds[dtype])


def types_of(device_type: str) -> tuple[torch.dtype, ...]:
    """Those of fp32 and bf16 that the device has instructions for, not those that it emulates."""
    if device_type == "cpu":
        bf16 = torch.bfloat16 in instructions().multiplied
    else:
        bf16 = device_type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return (torch.float32, torch.bfloat16) if bf16 else (torch.float32,)


def emulated(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `device` is a CPU without instructions for products in `dtype`."""
    return device.type == "cpu" and dtype not in instructions().multiplied


def matmul_speeds(n: int, repeats: int = 7) -> dict[torch.dtype, float]:
    """Operations per second of an n × n × n product on the CPU, for each data type that it has
    instructions for: others would take seconds to minutes."""
    return {dtype: _speed(dtype, torch.device("cpu"), n, repeats) for dtype in types_of("cpu")}


def peak_speed(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second that a large product reaches on the device, measured once a process: a
    network can reach no more."""
    return _peak(dtype, str(device))


@functools.cache
def _peak(dtype: torch.dtype, device: str) -> float:
    place = torch.device(device)
    return _speed(dtype, place, _LARGE if place.type == "cpu" else 8 * _LARGE, 7)


def _speed(dtype: torch.dtype, device: torch.device, n: int, repeats: int) -> float:
    """Best of `repeats`; where the machine is slow, half a second of products is enough."""
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else object
    a = torch.randn(n, n, device=device).to(dtype)
    seconds: list[float] = []
    if device.type != "cpu":
        a @ a  # starts the library
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        a @ a
        wait()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > _ENOUGH:
            break
    return 2 * n**3 / max(min(seconds), 1e-9)  # a coarse clock may stand still
