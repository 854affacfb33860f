"""Convolutions with fewer multiplications: the same numbers, when they are used, what is kept."""

import pytest
import torch
import torch.nn.functional as F

from tests.acceleration.test_int8 import refused
from tests.machines import WITH_BF16, WITH_MATRIX_UNITS
from tests.networks.test_unet import CONFIG, inputs, randomise
from unclip.acceleration.int8 import Int8Conv2d, to_int8
from unclip.networks import winograd
from unclip.networks.unet import UNet
from unclip.networks.unet_config import adm_config
from unclip.networks.winograd import ENLARGED, FOUR, TWO, Algorithm, Conv3x3


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers too, and on CPUs with matrix units."""
    monkeypatch.setattr(winograd, "_CHANNELS", 1)
    monkeypatch.setattr(winograd, "_PIXELS", 1)
    monkeypatch.setattr(winograd, "_PIXELS_KEPT", 1)
    monkeypatch.setattr(winograd, "_PIXELS_FOUR", 1)
    monkeypatch.setattr(winograd, "instructions", lambda: WITH_BF16)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Algorithm]:
    """The algorithm of every convolution that is computed this way."""
    seen: list[Algorithm] = []
    convolve = winograd._convolve
    monkeypatch.setattr(
        winograd, "_convolve", lambda *args: seen.append(args[-1]) or convolve(*args)
    )
    return seen


def layer(channels: int = 5, outputs: int = 7) -> Conv3x3:
    torch.manual_seed(0)
    return Conv3x3(channels, outputs).to(memory_format=torch.channels_last)


def direct(conv: Conv3x3, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, conv.weight, conv.bias, padding=1)


def enlarged(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


@pytest.mark.parametrize("algorithm", [TWO, FOUR, ENLARGED])
def test_the_identity_behind_it(algorithm: Algorithm) -> None:
    """Aᵀ [(G w) ⊙ (Bᵀ d)] is the correlation of d with w, for every input and tap by itself."""
    a, g, b = (
        torch.tensor(rows, dtype=torch.float64)
        for rows in (algorithm.outputs, algorithm.taps, algorithm.inputs)
    )
    got = torch.einsum("yi,it,ix->ytx", a, g, b)  # of output y, tap t, input x
    expected = torch.zeros_like(got)
    for y in range(got.shape[0]):
        for tap in range(3):
            # Output y reads pixels y to y + 2 of the image; of an enlarged one, where pixel p is
            # input (p + 1) // 2, as the tile begins with the second of two equal ones.
            x = (y + tap + 1) // 2 if algorithm is ENLARGED else y + tap
            expected[y, tap, x] += 1
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("limit", [1, 5000, 2**24])
@pytest.mark.parametrize("shape", [(1, 5, 2, 2), (3, 5, 6, 10), (2, 5, 16, 4), (1, 5, 4, 12)])
@torch.no_grad()
def test_it_is_the_convolution(
    shape: tuple[int, ...],
    limit: int,
    monkeypatch: pytest.MonkeyPatch,
    calls: list[Algorithm],
) -> None:
    monkeypatch.setattr(winograd, "_BYTES", limit)  # of a strip: single rows, some rows, all
    conv = layer()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(conv(given), direct(conv, x), atol=1e-5, rtol=1e-5)
        got = conv.enlarged(given)
        torch.testing.assert_close(got, direct(conv, enlarged(x)), atol=1e-5, rtol=1e-5)
        assert got.is_contiguous(memory_format=torch.channels_last)
    fours = shape[-1] % 4 == shape[-2] % 4 == 0
    assert calls == 2 * [FOUR if fours else TWO, ENLARGED]


@pytest.mark.parametrize(
    ("dtype", "coarse", "times"),
    [(torch.float32, False, 2), (torch.bfloat16, False, 4), (torch.bfloat16, True, 12)],
)
@torch.no_grad()
def test_roundings_are_few(dtype: torch.dtype, coarse: bool, times: float) -> None:
    """In fp32 about the direct sum's; in bf16, where that has one alone, a few."""
    conv = layer(256, 64).to(dtype)
    assert not coarse or conv.coarsen(16)
    x = torch.randn(1, 256, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    truth = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)

    def error(made: torch.Tensor) -> float:
        return (made.double() - truth).norm().item()

    assert 0 < error(conv(x)) < times * error(direct(conv, x))


def test_where_it_is_used(monkeypatch: pytest.MonkeyPatch, calls: list[Algorithm]) -> None:
    conv, x = layer(), torch.randn(1, 5, 8, 8)
    with torch.no_grad():
        conv(torch.randn(1, 5, 5, 6))  # no whole tiles
        monkeypatch.setattr(winograd, "_PIXELS_FOUR", 65)
        conv(x)
        assert calls == [TWO]
        monkeypatch.setattr(winograd, "_PIXELS", 65)
        conv(x)
        conv.enlarged(x)  # 256 pixels
        assert calls == [TWO, ENLARGED]
        monkeypatch.setattr(winograd, "_CHANNELS", 6)
        conv.enlarged(x)
        assert len(calls) == 2
    monkeypatch.undo()
    wide, x = layer(256, 256), torch.randn(1, 256, 32, 32)
    wide(x).square().mean().backward()  # the plain one
    assert wide.weight.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(wide(x), direct(wide, x), atol=1e-5, rtol=0)


@torch.no_grad()
def test_bf16_is_left_to_matrix_units(
    monkeypatch: pytest.MonkeyPatch, calls: list[Algorithm]
) -> None:
    monkeypatch.setattr(winograd, "instructions", lambda: WITH_MATRIX_UNITS)
    x = torch.randn(1, 5, 6, 6)
    assert not layer().coarsen(64)  # fp32
    layer().bfloat16()(x.bfloat16())
    assert calls == []
    assert not layer().bfloat16().coarsen(64)
    layer()(x)
    assert calls == [TWO]


@torch.no_grad()
def test_a_request_transforms_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_PIXELS_FOUR", 10**9)  # those are never kept
    made: list[int] = []
    transformed = winograd._transformed
    monkeypatch.setattr(
        winograd, "_transformed", lambda *args: made.append(1) or transformed(*args)
    )
    network, batch = randomise(UNet(CONFIG)), inputs(CONFIG)
    convolutions = sum(isinstance(module, Conv3x3) for module in network.modules())
    x, _ = batch.pop("x"), batch.pop("t")
    with torch.enable_grad():  # plain
        plain = [network(x, torch.tensor(t), **batch).detach() for t in (900, 3)]
    assert made == []
    kept = network.conditions([900, 3], **batch, keep_kernels=True)
    for t, expected in zip((900, 3), plain, strict=True):
        torch.testing.assert_close(network.proceed(x, t, kept), expected, atol=1e-4, rtol=1e-4)
    assert len(made) == convolutions
    anew = network.conditions([900, 3], **batch)
    for t, expected in zip((900, 3), plain, strict=True):
        torch.testing.assert_close(network.proceed(x, t, anew), expected, atol=1e-4, rtol=1e-4)
    assert len(made) == 3 * convolutions


@pytest.mark.skipif(refused(), reason="this CPU or torch has no fast int8")
@torch.no_grad()
def test_beside_8_bit_layers_large_images_are_coarse(
    monkeypatch: pytest.MonkeyPatch, calls: list[Algorithm]
) -> None:
    network = randomise(UNet(adm_config(32, (8, 12, 12), 1, groups=4))).bfloat16()
    network.to(memory_format=torch.channels_last)
    sides = {name: m for name, m in network.named_modules() if isinstance(m, Conv3x3)}
    found = dict(network.convolutions())
    assert found.keys() == set(sides.values())
    for name, side in (
        ("down_blocks.0.resnets.0.conv2", 32), ("down_blocks.0.downsamplers.0.conv1", 16),
        ("mid_block.resnets.0.conv1", 8), ("up_blocks.1.resnets.1.conv1", 16),
        ("up_blocks.1.upsamplers.0.conv1", 32), ("up_blocks.2.resnets.0.conv2", 32),
    ):  # fmt: skip
        assert found[sides[name]] == side
    x, t = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor(5)
    with torch.enable_grad():
        exact = network(x, t).detach()
    monkeypatch.setattr(winograd, "_PIXELS_FOUR", 16**2)
    to_int8(network)
    made = network(x, t)
    assert {conv for conv in found if conv.coarse} == {c for c, side in found.items() if side >= 16}
    kept = {name: m for name, m in network.named_modules() if isinstance(m, Conv3x3)}
    assert set(kept.values()) == {conv for conv in found if conv.coarse}
    assert any(isinstance(module, Int8Conv2d) for module in network.modules())
    assert set(calls) == {FOUR, ENLARGED}
    assert 0 < ((made - exact).norm() / exact.norm()).item() < 0.1
