"""What is said of this CPU is true of it, and under the environment's limits on it as well."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from unclip.device import instructions as asked
from unclip.device.instructions import instructions

# What a server of 2023 has, as torch names it.
DETECTED = frozenset(
    {
        "avx_vnni",
        "avx512_f",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_bf16",
        "amx_int8",
    }
)
IN_ANOTHER_PROCESS = """
import torch
from unclip.device.instructions import instructions
cpu = instructions()
weight = torch.ones(32, 32)
def lays_out(dtype):
    try:
        torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), None)
    except RuntimeError:
        return False
    return True
if torch.backends.mkldnn.is_available():
    for dtype in (torch.float32, torch.bfloat16):
        assert lays_out(dtype) == (dtype in cpu.packed), (dtype, cpu)
print(cpu.kernels, torch.bfloat16 in cpu.multiplied, cpu.int8, cpu.matrix_units)
"""


def said_under(**limits: str) -> list[str]:
    """What another process says of this CPU, in which packing was tried for every type."""
    environment = {k: v for k, v in os.environ.items() if "_CPU_" not in k} | limits
    words = [sys.executable, "-c", IN_ANOTHER_PROCESS]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("environment", "left"),
    [
        ({}, DETECTED),
        ({"ONEDNN_MAX_CPU_ISA": "SSE41"}, set()),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, set()),
        ({"ONEDNN_MAX_CPU_ISA": "avx2"}, set()),
        ({"DNNL_MAX_CPU_ISA": "AVX2"}, set()),
        ({"ONEDNN_MAX_CPU_ISA": "ALL", "DNNL_MAX_CPU_ISA": "AVX2"}, DETECTED),
        ({"ONEDNN_MAX_CPU_ISA": "", "DNNL_MAX_CPU_ISA": "AVX2"}, set()),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}, {"avx_vnni"}),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI_2"}, {"avx_vnni"}),  # it lacks avx_ne_convert
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, {"avx512_f"}),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, {"avx512_f", "avx512_vnni"}),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, {"avx512_f", "avx512_vnni", "avx512_bf16"}),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, DETECTED),
        ({"ONEDNN_MAX_CPU_ISA": "no such name"}, DETECTED),
    ],
)
def test_limits(environment: dict[str, str], left: set[str]) -> None:
    assert asked._usable(DETECTED, environment) == left


def test_this_cpu_as_it_is() -> None:
    cpu = instructions()
    assert torch.float32 in cpu.multiplied
    if cpu.packed:
        assert {torch.float32} <= cpu.multiplied - {torch.float16} <= cpu.packed
    assert cpu.kernels == torch.backends.cpu.get_cpu_capability()


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available(),
    reason="no x86, or this torch is without oneDNN",
)
def test_limited_to_avx2_it_multiplies_in_fp32_alone() -> None:
    said = said_under(ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="AVX2")
    assert said == ["DEFAULT", "False", "False", "False"]


def test_torch_before_it_had_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older:
        _is_vnni_supported = staticmethod(lambda: True)
        _is_avx512_bf16_supported = staticmethod(lambda: False)

    monkeypatch.setattr(torch, "cpu", Older)
    assert asked._detected() == {"avx512_vnni"}


def test_without_onednn_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    cpu = instructions.__wrapped__()
    assert (cpu.multiplied, cpu.packed) == ({torch.float32}, frozenset())
    assert not cpu.int8
