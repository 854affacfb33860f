"""What this CPU has instructions for, as torch and oneDNN will use them: the one place that asks.

A CPU computes in every data type, but emulates those that it has no instructions for: a product
in bf16 then takes three to a hundred times as long as in fp32, and 8-bit sums overflow. So what
chooses, times, packs or recommends a type asks here first.

Not all that a CPU has is used. oneDNN, which does the products, heeds ONEDNN_MAX_CPU_ISA (formerly
DNNL_MAX_CPU_ISA) in the environment, and torch's own kernels ATEN_CPU_CAPABILITY: that is also how
another machine is played for a test (`make test-avx2`).
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

_INT8 = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})
_MATRIX_UNITS = frozenset({"amx_bf16"})
_BF16 = frozenset({"avx_ne_convert", "avx512_bf16", "amx_bf16", "bf16"})  # the last one is ARM's
_FP16 = frozenset({"avx_ne_convert", "avx512_fp16", "amx_fp16", "fp16_arith"})
# What oneDNN still uses of these under each limit; under one that is not here, all.
_NEWER = frozenset({"avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16"})
_LIMITS = {
    "SSE41": frozenset[str](),
    "AVX": frozenset[str](),
    "AVX2": frozenset[str](),
    "AVX2_VNNI": frozenset({"avx_vnni"}),
    "AVX2_VNNI_2": frozenset({"avx_vnni", "avx_ne_convert"}),
    "AVX512_CORE": frozenset({"avx512_f"}),
    "AVX512_CORE_VNNI": frozenset({"avx512_f", "avx512_vnni"}),
    "AVX512_CORE_BF16": frozenset({"avx512_f", "avx512_vnni", "avx512_bf16"}),
    "AVX512_CORE_FP16": _NEWER,
    "AVX10_1_512": _NEWER,
    "AVX10_2": _NEWER,
    "AVX10_2_512": _NEWER,
}


@dataclass(frozen=True)
class Instructions:
    """What products on this CPU can be made of.

    Args:
        kernels: of torch, as it names them: "DEFAULT", "AVX2", "AVX512", …
        multiplied: floating-point types with instructions of their own, in torch's kernels and in
            oneDNN's; fp32 always.
        packed: types that oneDNN can lay weights out in; none without oneDNN.
        int8: whether sums of products of 8-bit integers are fast, and exact in 32 bits.
        matrix_units: whether bf16 has units that multiply matrices (AMX).
    """

    kernels: str
    multiplied: frozenset[torch.dtype]
    packed: frozenset[torch.dtype]
    int8: bool
    matrix_units: bool


@functools.cache
def instructions() -> Instructions:
    """Of this CPU in this process."""
    onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    usable = _usable(_detected(), os.environ) if onednn else frozenset[str]()
    # oneDNN reads bf16 from AVX-512 on, without multiplying in it: there it can be packed.
    reads_bf16 = onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    reads_fp16 = onednn and bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    kernels = torch.backends.cpu.get_cpu_capability()
    # torch's attention in these types leaves products to oneDNN wherever that has AVX-512, but
    # prepares them with kernels of its own, which then must have it too.
    fits = kernels == "AVX512" or "avx512_f" not in usable
    multiplied = {
        torch.float32: True,
        torch.bfloat16: fits and reads_bf16 and bool(usable & _BF16),
        torch.float16: fits and reads_fp16 and bool(usable & _FP16),
    }
    packed = {torch.float32: onednn, torch.bfloat16: reads_bf16}
    return Instructions(
        kernels,
        frozenset(dtype for dtype, there in multiplied.items() if there),
        frozenset(dtype for dtype, there in packed.items() if there),
        bool(usable & _INT8),
        bool(usable & _MATRIX_UNITS),
    )


def _usable(detected: frozenset[str], environment: Mapping[str, str]) -> frozenset[str]:
    """Of the instructions that were detected, those that oneDNN uses in this environment."""
    names = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    limit = next((environment[name] for name in names if environment.get(name)), "")
    return detected & _LIMITS.get(limit.upper(), detected)


def _detected() -> frozenset[str]:
    """Names, as `torch.cpu.get_capabilities` gives them, of what the processor has."""
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        return frozenset(name for name, there in known.items() if there is True)
    # Older versions of torch know fewer.
    asked = {
        "_is_avx512_supported": {"avx512_f"},
        "_is_vnni_supported": {"avx512_vnni"},
        "_is_avx512_bf16_supported": {"avx512_bf16"},
        "_is_amx_tile_supported": {"amx_bf16", "amx_int8"},
    }
    there = [names for ask, names in asked.items() if getattr(torch.cpu, ask, bool)()]
    return frozenset[str]().union(*there)
