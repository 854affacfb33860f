"""PSNR, SSIM and edge error by their definitions, and the table of a model's upsamplers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from unclip import Pipeline, Settings
from unclip.data.world.scene import WorldConfig
from unclip.evaluation.report import Conditions, Report
from unclip.evaluation.studies.upsampling import (
    edge_error,
    held_against,
    measure,
    small_of,
    ssim,
    table,
)
from unclip.networks.upsampler import upsample_bicubic
from unclip.pixels import psnr, to_signed


def images(seed: int, count: int = 2, size: int = 24) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr() -> None:
    a = images(0)
    assert psnr(a, a).isinf().all()
    assert psnr(a + 0.2, a).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)  # a tenth of 2


def test_ssim_is_its_definition() -> None:
    """Wang et al. (2004), equation 13, written out for every window."""
    a, b = images(0, 1, 16), (images(0, 1, 16) + images(1, 1, 16)) / 2
    g = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    w = np.outer(g, g) / np.outer(g, g).sum()
    values = []
    levels = [(one[0].double().numpy() + 1) / 2 for one in (a, b)]  # intensities are not negative
    for x, y in zip(*levels, strict=True):
        for i in range(6):
            for j in range(6):
                p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
                mp, mq = (w * p).sum(), (w * q).sum()
                vp, vq = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum()
                cov = (w * (p - mp) * (q - mq)).sum()
                c1, c2 = 0.01**2, 0.03**2
                values.append(
                    (2 * mp * mq + c1) * (2 * cov + c2)
                    / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
                )  # fmt: skip
    assert ssim(a, b).item() == pytest.approx(np.mean(values), abs=1e-9)
    assert ssim(a, a).item() == pytest.approx(1.0)
    assert ssim(-a, a).item() < 0
    # Two constants: the luminance term alone.
    flat = [torch.full((1, 3, 16, 16), value) for value in (0.5, 0.25)]
    expected = (2 * 0.75 * 0.625 + c1) / (0.75**2 + 0.625**2 + c1)
    assert ssim(*flat).item() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(a[..., :8], b[..., :8])


def test_edge_error() -> None:
    truth = torch.zeros(1, 3, 24, 24)
    truth[..., 12:] = 1.0
    assert edge_error(truth, truth).item() == 0
    assert edge_error(truth + 0.3, truth).item() == pytest.approx(0, abs=1e-6)  # brightness is none
    assert edge_error(torch.zeros_like(truth), truth).item() == pytest.approx(1)
    assert edge_error(truth.roll(6, dims=3).clamp(0, 1), truth).item() > 1.9  # elsewhere
    assert edge_error(truth * 0.75, truth).item() == pytest.approx(0.25, abs=1e-6)


def test_the_table(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")
    sampling = pipe.sampling("super_res", Settings(super_res_num_inference_steps=1))
    world = WorldConfig(split="held-out")
    rows = [
        measure(pipe.upsamplers[0], 16, sampling, world, 2, degradation)
        for degradation in ("none", "bsr")
    ]
    clean, degraded = rows
    assert clean.bicubic["PSNR"] > degraded.bicubic["PSNR"]
    assert 0 < clean.bicubic["edge error"] < degraded.bicubic["edge error"]
    assert all(math.isfinite(value) for row in rows for value in row.made.values())
    lines = table(rows).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| 16 → 32 | averaged down | ")
    assert {line.count("|") for line in lines} == {7}


def test_the_truth_gains_over_bicubic_image_by_image() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = to_signed(torch.randint(256, (5, 3, 32, 32), generator=generator, dtype=torch.uint8))
    truth[0] = 0.25  # flat: it has no edges that could be wrong
    small = small_of(truth, 16)
    assert small.shape == (5, 3, 16, 16)
    assert torch.allclose(small[1, 0, 0, 0], truth[1, 0, :2, :2].mean())
    bicubic = upsample_bicubic(small, (32, 32))
    report = Report("")
    held_against(truth, bicubic, truth, Conditions(5, "", 5, "", "", ""), "16 → 32 px", report)
    found = {(one.metric, one.of): one.found.value for one in report.numbers}
    assert found["PSNR", "16 → 32 px, upsampler"] == 100
    assert found["PSNR, difference", "16 → 32 px, upsampler less bicubic"] > 0
    assert found["edge error, difference", "16 → 32 px, upsampler less bicubic"] < 0
    degraded = small_of(truth, 16, "bsr")
    assert degraded.shape == (5, 3, 16, 16)
    assert torch.equal(degraded, small_of(truth, 16, "bsr"))
