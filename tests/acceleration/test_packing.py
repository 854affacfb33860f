"""Packed linear layers: the plain ones' results, and their state."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.machines import PLAIN
from unclip import Pipeline
from unclip.acceleration import packing
from unclip.acceleration.packing import PackedLinear, bytes_of, pack
from unclip.device.instructions import instructions
from unclip.device.memory import kept_memory


@pytest.mark.parametrize("rows", [(1,), (6,), (2, 3), (40,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_what_the_plain_layer_does(
    rows: tuple[int, ...], dtype: torch.dtype, bias: bool
) -> None:
    if dtype not in instructions().packed:
        pytest.skip(f"oneDNN cannot lay out weights in {dtype} on this CPU")
    plain = nn.Linear(96, 130, bias=bias).to(dtype).requires_grad_(False)
    x = torch.randn(*rows, 96, generator=torch.Generator().manual_seed(1)).to(dtype)
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(
        PackedLinear(plain)(x), plain(x), rtol=8 * rounding, atol=8 * rounding
    )


def test_what_comes_in_has_the_plain_layers_gradient() -> None:
    plain = nn.Linear(24, 10).requires_grad_(False)
    packed, gradients = PackedLinear(plain), []
    for layer in (plain, packed):
        x = torch.linspace(-1, 1, 48).view(2, 24).requires_grad_()
        layer(x).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


def test_only_linear_layers_are_replaced_and_the_state_stays() -> None:
    network = nn.Sequential(
        nn.Linear(4, 6), nn.LayerNorm(6), nn.ModuleList([nn.Linear(6, 3), nn.Embedding(5, 2)])
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    size = bytes_of(network)
    assert size == 4 * sum(value.numel() for value in before.values())
    pack(network)
    assert bytes_of(network) == size
    kinds = [type(module) for module in network.modules() if not list(module.children())]
    assert kinds == [PackedLinear, nn.LayerNorm, PackedLinear, nn.Embedding]
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_half_precision_without_kernels_is_left_alone() -> None:
    network = nn.Sequential(nn.Linear(4, 6)).half()
    pack(network)
    assert type(network[0]) is nn.Linear


def test_bf16_is_left_alone_where_onednn_cannot_lay_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "instructions", lambda: PLAIN)
    network = nn.Sequential(nn.Linear(4, 6).bfloat16(), nn.Linear(6, 4))
    pack(network)
    assert [type(layer) for layer in network] == [nn.Linear, PackedLinear]


def test_priors_are_packed_on_cpus_and_saved_as_they_were(
    tiny_priors: Path, tmp_path: Path
) -> None:
    pipe = Pipeline.from_pretrained(tiny_priors, device="cpu", dtype="fp32")
    assert pipe.prior is not None
    assert pipe.autoregressive_prior is not None
    for stage in (pipe.prior, pipe.autoregressive_prior):
        kinds = {type(module) for module in stage.network.modules()}
        assert PackedLinear in kinds
        assert nn.Linear not in kinds
    pipe.save_pretrained(tmp_path / "saved")
    again = Pipeline.from_pretrained(tmp_path / "saved", device="cpu", dtype="fp32")
    for prior in ("diffusion", "autoregressive"):
        options = {"steps": "fast", "prior": prior, "output_type": "tensor", "size": 32}
        assert torch.equal(*(p("a red circle", **options).images for p in (pipe, again)))


def test_memory_is_kept_inside_the_block_only() -> None:
    """What is freed is taken again without the kernel clearing it once more."""
    resource = pytest.importorskip("resource")

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(40, 2**20)  # 160 MiB
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    usual = faults()
    with kept_memory(torch.device("cpu")):
        kept = min(faults() for _ in range(6))  # others may take a piece of it in between
    after = faults()
    if usual < 1000:
        pytest.skip("this C library or kernel maps memory otherwise")
    assert kept < usual / 10
    assert after > usual / 2
