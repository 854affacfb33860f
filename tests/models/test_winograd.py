"""Convolutions with fewer multiplications: the same numbers, when they are used, what is kept."""

import pytest
import torch
import torch.nn.functional as F

from tests.models.test_unet import CONFIG, inputs, randomise
from unclip.models import winograd
from unclip.models.unet import UNet
from unclip.models.winograd import Conv3x3


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers too, and on CPUs with matrix units."""
    monkeypatch.setattr(winograd, "_CHANNELS", 1)
    monkeypatch.setattr(winograd, "_PIXELS", 1)
    monkeypatch.setattr(winograd, "_PIXELS_KEPT", 1)
    monkeypatch.setattr(winograd, "_matrix_units", lambda: False)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every convolution that is computed this way."""
    seen: list[int] = []
    convolve = winograd._convolve
    monkeypatch.setattr(winograd, "_convolve", lambda *args: seen.append(1) or convolve(*args))
    return seen


def layer(channels: int = 5, outputs: int = 7) -> Conv3x3:
    torch.manual_seed(0)
    return Conv3x3(channels, outputs).to(memory_format=torch.channels_last)


def direct(conv: Conv3x3, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, conv.weight, conv.bias, padding=1)


@pytest.mark.parametrize("limit", [1, 5000, 2**24])
@pytest.mark.parametrize("shape", [(1, 5, 2, 2), (3, 5, 6, 10), (2, 5, 16, 4)])
@torch.no_grad()
def test_it_is_the_convolution(
    shape: tuple[int, ...], limit: int, monkeypatch: pytest.MonkeyPatch, calls: list[int]
) -> None:
    monkeypatch.setattr(winograd, "_BYTES", limit)  # of a strip: single rows, some rows, all
    conv = layer()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(conv(given), direct(conv, x), atol=1e-5, rtol=1e-5)
        enlarged = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        got = conv.enlarged(given)
        torch.testing.assert_close(got, direct(conv, enlarged), atol=1e-5, rtol=1e-5)
        assert got.is_contiguous(memory_format=torch.channels_last)
    assert len(calls) == 4


@torch.no_grad()
def test_roundings_are_few() -> None:
    """In fp32 no more than the direct sum's; in bf16, where that has one alone, some of them."""
    conv = layer(64, 64)
    x = torch.randn(1, 64, 16, 16, generator=torch.Generator().manual_seed(1))
    for dtype, times in ((torch.float32, 1.5), (torch.bfloat16, 5)):
        rounded, y = conv.to(dtype), x.to(dtype)
        truth = F.conv2d(y.double(), conv.weight.double(), conv.bias.double(), padding=1)

        def error(made: torch.Tensor, truth: torch.Tensor = truth) -> float:
            return (made.double() - truth).norm().item()

        assert 0 < error(rounded(y)) < times * error(direct(rounded, y))


def test_where_it_is_used(monkeypatch: pytest.MonkeyPatch, calls: list[int]) -> None:
    conv, x = layer(), torch.randn(1, 5, 6, 6)
    with torch.no_grad():
        conv(torch.randn(1, 5, 5, 6))  # no whole tiles
        monkeypatch.setattr(winograd, "_PIXELS", 37)
        conv(x)
        assert calls == []
        conv.enlarged(x)  # 144 pixels
        monkeypatch.setattr(winograd, "_CHANNELS", 6)
        conv.enlarged(x)
        assert calls == [1]
        monkeypatch.undo()
        conv(torch.randn(1, 5, 64, 64))  # few channels
    always_wide = layer(256, 256)
    wide = torch.randn(1, 256, 32, 32)
    loss = always_wide(wide).square().mean()  # gradients come from the plain one
    loss.backward()
    assert always_wide.weight.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(always_wide(wide), direct(always_wide, wide), atol=1e-5, rtol=0)


@torch.no_grad()
def test_bf16_is_left_to_matrix_units(monkeypatch: pytest.MonkeyPatch, calls: list[int]) -> None:
    monkeypatch.setattr(winograd, "_matrix_units", lambda: True)
    x = torch.randn(1, 5, 6, 6)
    layer().bfloat16()(x.bfloat16())
    assert calls == []
    layer()(x)
    assert calls == [1]


@torch.no_grad()
def test_a_request_transforms_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
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
