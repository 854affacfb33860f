"""Attention on CPUs that emulate the type it is asked for in."""

import pytest
import torch

from tests.machines import PLAIN, WITH_BF16
from unclip.device.instructions import Instructions
from unclip.networks import layers
from unclip.networks.layers import attention


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
