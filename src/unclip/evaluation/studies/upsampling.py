"""Upsamplers held against the truth: PSNR, SSIM and edges of enlarged scenes, beside bicubic's.

The built-in world renders a scene at any resolution, so the large image is known exactly.

Shapes: N images, C channels, H × W pixels, all in [-1, 1].
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.data.degradations import bsr
from unclip.data.world.scene import WorldConfig
from unclip.data.world.world import World
from unclip.diffusion.samplers import noise_from
from unclip.diffusion.sampling import Sampling
from unclip.evaluation.generated import Draw, Wanted
from unclip.evaluation.intervals import mean
from unclip.evaluation.report import Conditions, Report
from unclip.networks.upsampler import upsample_bicubic
from unclip.pixels import psnr, to_signed, to_uint8
from unclip.stages.upsampler import UpsamplerStage

_MOST = 100.0  # dB that images which agree count as
_LOWER = ("edge error",)  # of `MEASURES`, those that are better when they are lower
_WINDOW, _SIGMA = 11, 1.5  # of SSIM


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (N,) of images (N, C, H, W), -1 to 1: Wang et al. (2004).

    Gaussian windows of 11 × 11 pixels and σ = 1.5 that lie wholly inside, K₁ = 0.01, K₂ = 0.03,
    variances divided by n; each channel by itself, then the mean.

    Raises:
        ValueError: the images are smaller than a window.
    """
    if min(images.shape[-2:]) < _WINDOW:
        raise ValueError(f"SSIM needs images of at least {_WINDOW} pixels a side")
    offsets = torch.arange(_WINDOW, dtype=torch.float64, device=images.device) - _WINDOW // 2
    window = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    window /= window.sum()

    def mean(x: Tensor) -> Tensor:
        channels = x.shape[1]
        rows = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        x = F.conv2d(x, rows, groups=channels)
        return F.conv2d(x, rows.transpose(2, 3), groups=channels)

    # Its luminance is a ratio of intensities, which must not be negative: in [0, 1].
    a, b = (images.double() + 1) / 2, (truth.double() + 1) / 2
    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def edge_error(images: Tensor, truth: Tensor) -> Tensor:
    """How wrong the edges are (N,): mean |∇a - ∇b| over mean |∇b|, with Sobel's gradients.

    0 where edges are the truth's, 1 for an image without any, more where they are somewhere else.
    """

    def gradient(x: Tensor) -> Tensor:
        smooth = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype, device=x.device)
        across = torch.outer(smooth, smooth.new_tensor([-1.0, 0.0, 1.0])) / 8
        kernels = torch.stack([across, across.T])[:, None]  # (2, 1, 3, 3)
        means = F.conv2d(x.flatten(0, 1)[:, None], kernels)
        return means.view(*x.shape[:2], *means.shape[1:])

    a, b = gradient(images.double()), gradient(truth.double())  # (N, C, 2, H - 2, W - 2)
    lengths = [g.norm(dim=2).mean(dim=(1, 2, 3)) for g in (a - b, b)]
    ratio: Tensor = lengths[0] / lengths[1]
    return ratio


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "PSNR": psnr,
    "SSIM": ssim,
    "edge error": edge_error,
}


@dataclass(frozen=True)
class Row:
    """One upsampler on one kind of small images: means over images, by the names of `MEASURES`."""

    small: int
    size: int
    degradation: str
    made: dict[str, float]
    bicubic: dict[str, float]
    seconds: float  # an image


def measure(
    upsampler: UpsamplerStage,
    small: int,
    sampling: Sampling,
    config: WorldConfig,
    count: int,
    degradation: str = "none",
    callback: Callable[[dict[str, Tensor]], None] = lambda images: None,
) -> Row:
    """Enlarge `count` scenes from `small` pixels a side, and compare them with the true scenes.

    Args:
        config: of the world; its size is replaced by the upsampler's.
        degradation: "none" (the scene averaged down) or "bsr".
        callback: called with every image (1, 3, H, W): "small", "bicubic", "made" and "true".
    """
    factor = upsampler.size // small
    device = next(upsampler.network.parameters()).device
    sums = {kind: dict.fromkeys(MEASURES, 0.0) for kind in ("made", "bicubic")}
    seconds = 0.0
    for index, truth in enumerate(_scenes(replace(config, size=upsampler.size), count)):
        if degradation == "bsr":
            generator = torch.Generator().manual_seed(index)
            x = to_signed(bsr(truth, factor, generator)[None])
        else:
            x = to_signed(F.interpolate(truth[None].float(), size=small, mode="area"))
        large = to_signed(truth[None])
        began = time.perf_counter()
        noise = noise_from([torch.Generator().manual_seed(index)])
        made = upsampler.sample(x.to(device), sampling, noise).cpu()
        seconds += time.perf_counter() - began
        bicubic = upsample_bicubic(x, (upsampler.size, upsampler.size))
        images = {"small": x, "bicubic": bicubic, "made": made, "true": large}
        for kind, totals in sums.items():
            for name, function in MEASURES.items():
                totals[name] += function(images[kind].clamp(-1, 1), large).item()
        callback(images)
    means = [{name: total / count for name, total in row.items()} for row in sums.values()]
    return Row(small, upsampler.size, degradation, means[0], means[1], seconds / count)


def small_of(truth: Tensor, size: int, degradation: str = "none") -> Tensor:
    """Images (N, 3, H, H) in [-1, 1] made small (N, 3, size, size).

    Args:
        degradation: "none" (averaged down) or "bsr", image k's by the seed k.
    """
    if degradation == "none":
        return F.interpolate(truth, size=(size, size), mode="area")
    factor = truth.shape[-1] // size
    drawn = [
        bsr(image, factor, torch.Generator().manual_seed(k))
        for k, image in enumerate(to_uint8(truth))
    ]
    return to_signed(torch.stack(drawn))


def enlarging(
    upsampler: UpsamplerStage,
    small: Mapping[str, Tensor],
    sampling: Sampling,
    progress: Callable[[int], Any],
) -> Draw:
    """Draws enlarged images.

    Args:
        small: what is wanted of an image (`Wanted.of`) → the small one (3, h, h) in [-1, 1].
        progress: is told of each sampling step how many images it was of.
    """
    device = next(upsampler.network.parameters()).device

    def draw(images: Sequence[Wanted]) -> Tensor:
        x = torch.stack([small[one.of] for one in images]).to(device)
        noise = noise_from([torch.Generator().manual_seed(one.seed) for one in images])
        return upsampler.sample(x, sampling, noise, lambda *step: progress(len(images))).clamp(
            -1, 1
        )

    return draw


def held_against(
    made: Tensor, bicubic: Tensor, truth: Tensor, under: Conditions, name: str, report: Report
) -> None:
    """`MEASURES` of enlarged images (N, 3, H, H) and of bicubic ones, into the report, and what the
    upsampler gains: the mean of the differences, image by image.

    Args:
        name: of the enlargement.
    """
    sides = {f"{name}, upsampler": made, f"{name}, bicubic": bicubic}
    values = {of: _measured(images, truth) for of, images in sides.items()}
    for of, numbers in values.items():
        for measure, each in numbers.items():
            better: Literal["lower", "higher"] = "lower" if measure in _LOWER else "higher"
            report.add(under, of, {measure: mean(each)}, better)
    ours, theirs = values.values()
    for measure, each in ours.items():
        better = "lower" if measure in _LOWER else "higher"
        difference = {f"{measure}, difference": mean(each - theirs[measure])}
        report.add(under, f"{name}, upsampler less bicubic", difference, better)


def _measured(images: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """`MEASURES` of those images that have each: small ones no SSIM, flat ones no edges."""
    found = {}
    for measure, function in MEASURES.items():
        if measure == "SSIM" and truth.shape[-1] < _WINDOW:
            continue
        each = function(images, truth).clamp(max=_MOST)
        kept = truth.flatten(1).std(dim=1) > 0 if measure in _LOWER else torch.ones(len(each)) > 0
        if kept.any():
            found[measure] = each[kept]
    return found


def _scenes(config: WorldConfig, count: int) -> Iterator[Tensor]:
    """(3, H, W) uint8."""
    world = World(config)
    for index in range(count):
        yield torch.from_numpy(world[index][0]).permute(2, 0, 1).contiguous()


def table(rows: list[Row]) -> str:
    """The rows as a markdown table: each cell the upsampler's mean, and bicubic's after it."""
    names = list(MEASURES)
    lines = [
        f"| upsampler | small images | {' | '.join(names)} | seconds an image |",
        "|" + "---|" * (len(names) + 3),
    ]
    for row in rows:
        cells = [f"{row.made[name]:.3f} (bicubic {row.bicubic[name]:.3f})" for name in names]
        what = "averaged down" if row.degradation == "none" else "degraded by BSR"
        cells = [f"{row.small} → {row.size}", what, *cells, f"{row.seconds:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
