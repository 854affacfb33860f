"""Tiles: exact where the receptive field allows, aligned, bounded, and chosen by size alone."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.acceleration.tiling import BUDGET, _starts, activation_bytes, tile_side, tiled
from unclip.networks.unet import UNet
from unclip.networks.unet_config import adm_config
from unclip.networks.upsampler import UPSAMPLERS


@pytest.mark.parametrize("size", [(64, 64), (64, 200), (208, 112), (16, 320)])
def test_convolutions_are_exact(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    kernels = torch.randn(2, 5, 3, 5, 5)  # two layers reach 4 pixels: side / 16

    def network(x: Tensor) -> Tensor:
        hidden = F.conv2d(x, kernels[0], padding=2).relu()
        return F.conv2d(hidden, kernels[1].transpose(0, 1), padding=2)

    torch.testing.assert_close(tiled(network, x, 64), network(x), rtol=1e-4, atol=1e-3)


def test_a_unet_is_exact_but_for_its_normalisation() -> None:
    """With statistics that are constants, tiles of the U-Net are the whole image's result."""
    torch.manual_seed(0)
    network = UNet(adm_config(32, (8, 16), 1, groups=4))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3 / max(1, parameter[0].numel()) ** 0.5)
    x, t = torch.randn(1, 3, 256, 384), torch.tensor([5])

    @torch.no_grad()
    def error() -> float:
        whole = network(x, t)
        made = tiled(lambda part: network(part, t), x, 256, network.config.downsampling)
        return ((made - whole).abs().max() / whole.abs().max()).item()

    normalised = error()
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    assert error() < 1e-5
    assert 1e-5 < normalised < 0.2  # statistics differ a little from tile to tile


def test_tiles_are_bounded_and_aligned() -> None:
    seen: list[tuple[int, int]] = []
    grid = torch.arange(240 * 112.0).view(1, 1, 240, 112)

    def network(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))  # type: ignore[arg-type]
        top, left = divmod(int(x[0, 0, 0, 0]), 112)
        assert top % 8 == 0
        assert left % 8 == 0
        return x

    both = torch.cat([grid, grid])
    torch.testing.assert_close(tiled(network, both, 64, 8), both)
    assert set(seen) == {(1, 1, 64, 64)}  # one image at a time
    assert len(seen) == 2 * 5 * 2


@pytest.mark.parametrize("multiple", [1, 8, 32])
def test_tiles_overlap_by_a_quarter_wherever_they_may_begin(multiple: int) -> None:
    for side in (64, 96, 192):
        for length in range(side, 1025, 32):
            starts = _starts(length, side, multiple)
            assert (starts[0], starts[-1]) == (0, length - side)
            assert all(start % multiple == 0 for start in starts)
            for one, other in pairwise(starts):
                assert one + side - other >= side // 4
            assert len(starts) <= 2 + 2 * length // side


def test_the_tile_follows_from_the_size() -> None:
    config = UPSAMPLERS["paper-1024"]
    assert tile_side(config, 256, 256) is None  # the training crop in one piece
    side = tile_side(config, 1024, 1024)
    assert side is not None
    assert side % config.downsampling == 0
    assert 256 <= side < 1024
    assert activation_bytes(config, side, side) <= BUDGET
    assert activation_bytes(config, side + 32, side + 32) > BUDGET
    assert side == tile_side(config, 4096, 2048)
    assert tile_side(UPSAMPLERS["small"], 512, 512) is None
    assert tile_side(config, 1024, 1024, budget=1) == 64  # never nothing
