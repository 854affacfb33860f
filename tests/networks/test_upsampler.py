"""How the small image enters the upsampler."""

import torch

from unclip.networks.unet import UNet
from unclip.networks.upsampler import UPSAMPLERS, upsample_bicubic, upsampler_input


def test_upsampling_keeps_a_constant_and_aligns_edges():
    small = torch.full((1, 3, 4, 6), 0.5)
    torch.testing.assert_close(upsample_bicubic(small, (16, 24)), torch.full((1, 3, 16, 24), 0.5))
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    large = upsample_bicubic(ramp, (32, 32))[0, 0, 16]
    # align_corners=False: pixel centres at (i + 0.5) / 4 - 0.5
    torch.testing.assert_close(large[12:20], (torch.arange(12, 20) + 0.5) / 4 - 0.5)


def test_noisy_image_comes_first():
    x, upsampled = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8, dtype=torch.float64)
    joined = upsampler_input(x, upsampled)
    assert joined.dtype == torch.float32
    assert joined[:, :3].eq(0).all()
    assert joined[:, 3:].eq(1).all()


def test_trained_on_crops_applied_at_full_size():
    config = UPSAMPLERS["tiny"]
    network = UNet(config)
    for size in (config.sample_size // 4, config.sample_size):
        small = torch.zeros(1, 3, size // 4, size // 4)
        upsampled = upsample_bicubic(small, (size, size))
        out = network(upsampler_input(torch.zeros_like(upsampled), upsampled), torch.tensor(3))
        assert out.shape == (1, 3, size, size)


def test_presets_match_the_paper():
    with torch.device("meta"):
        counts = {
            name: sum(p.numel() for p in UNet(UPSAMPLERS[name]).parameters())
            for name in ("paper-256", "paper-1024")
        }
    assert round(counts["paper-256"], -8) == 700_000_000
    assert round(counts["paper-1024"], -8) == 300_000_000
