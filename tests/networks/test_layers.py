"""Attention on CPUs that emulate the type it is asked for in."""

import pytest
import torch

from tests.machines import PLAIN, WITH_BF16
from unclip.device.instructions import Instructions
from unclip.networks import layers
from unclip.networks.layers import RowDropout, attention, share_dropout


@pytest.mark.parametrize("cpu", [PLAIN, WITH_BF16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_rounded_once_where_its_type_is_emulated(
    cpu: Instructions, dtype: torch.dtype, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large enough for the kernels that are built for other instructions to be taken."""
    if cpu is WITH_BF16 and dtype not in layers.instructions().multiplied:
        pytest.skip(f"this CPU has no instructions for {dtype}")
    monkeypatch.setattr(layers, "instructions", lambda: cpu)
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 2, 96, 32, generator=generator).to(dtype) for _ in range(3))
    exact = attention(q.double(), k.double(), v.double(), causal=causal)
    with torch.autocast("cpu", torch.bfloat16):
        made = attention(q, k, v, causal=causal)
    if cpu is PLAIN:
        assert torch.equal(
            made, attention(q.float(), k.float(), v.float(), causal=causal).to(dtype)
        )
    torch.testing.assert_close(made.double(), exact, atol=3e-2, rtol=3e-2)


def test_gradients_pass_where_its_type_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "instructions", lambda: PLAIN)
    q, k, v = (torch.randn(1, 1, 5, 8).bfloat16().requires_grad_() for _ in range(3))
    attention(q, k, v).float().square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 5, 7), (6, 4, 3, 3)])
def test_dropout_is_the_same_on_any_number_of_processes(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = torch.randn(shape).to(dtype)
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    torch.manual_seed(3)
    whole = torch.nn.functional.dropout(x, 0.3)
    for processes in (1, 2, 3):
        parts = []
        for rank in range(processes):
            dropout = RowDropout(0.3)
            share_dropout(dropout, rank, processes)
            torch.manual_seed(3)
            parts.append(dropout(x.chunk(processes)[rank]))
        assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(dropout.eval()(x), x)
