"""The second upsampler's degradation: small images as bad as those found in the wild (section 2.1).

BSR, after Zhang et al. (2021), "Designing a Practical Degradation Model for Deep Blind Image
Super-Resolution": blurs, resizing, noise and JPEG, each of random strength, in random order. The
paper under implementation names it and says no more; ranges and probabilities are Zhang et al.'s
for a factor of four. Their camera noise, which needs a set of raw-image pipelines, is left out.

It runs where data is loaded, a function of seed and index alone: JPEG is no work for a GPU, workers
share it among cores, and a resumed run sees the same images. The first upsampler's blur is a single
convolution and stays in its loss (`stages/upsampler.py`), in full precision.

Shapes: C = 3 channels, H × W pixels of the original, h × w of the small image, f = H / h.
"""

import math
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.data.captions import Report
from unclip.data.sources import Sample, Source, Stream, unseen
from unclip.randomness import Draws

_FILTERS = ("bilinear", "bicubic", "area")
_MARGIN = 16  # pixels mirrored at each edge before a blur: three deviations of the widest
_ISOTROPIC = (0.1, 2.8)  # standard deviation, pixels
_ANISOTROPIC = (0.5, 8.0)  # variance along each axis, pixels squared
_NOISE = (1.0, 25.0)  # standard deviation, of 255
_QUALITY = (30.0, 95.0)  # of JPEG
_KEY = 0xB5  # keeps this stream apart from the crops' of the sources


class Draw:
    """Random numbers of one image."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def chance(self, probability: float) -> bool:
        return self.between(0, 1) < probability

    def below(self, bound: int) -> int:
        return int(torch.randint(bound, (), generator=self.generator))

    def order(self, count: int) -> list[int]:
        order: list[int] = torch.randperm(count, generator=self.generator).tolist()
        return order

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


def bsr(image: Tensor, factor: int, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """A degraded small image (3, h, w) uint8 of the original (3, H, W) uint8.

    Two blurs, a resizing by a random factor, the resizing to h × w, noise and JPEG in random order,
    the second resizing after the first; at the end JPEG once more.

    Args:
        factor: f; H and W must be multiples of it.
        generator: all randomness is its.
        strength: scales widths of blurs, noise and what JPEG loses; 1 is Zhang et al.'s. At 0 only
            the choice of filters is left.
    """
    height, width = image.shape[-2:]
    assert height % factor == 0, (height, factor)
    assert width % factor == 0, (width, factor)
    draw = Draw(generator)
    small = (height // factor, width // factor)
    x = image.float()
    if factor == 4 and draw.chance(0.25):  # the half first: other aliasing, and less to compute
        x = _resize(x, (height // 2, width // 2), draw)
    order = draw.order(6)
    first, second = sorted((order.index(2), order.index(3)))
    order[first], order[second] = 2, 3
    for step in order:
        if step == 0:
            x = _isotropic(x, draw, strength)
        elif step == 1:
            x = _anisotropic(x, draw, strength)
        elif step == 2:
            x = _rescale(x, small, draw, strength)
        elif step == 3:
            x = _resize(x, small, draw)
        elif step == 4:
            x = _noise(x, draw, strength)
        elif draw.chance(0.75):
            x = _jpeg(x, draw, strength)
        x = x.clamp(0, 255)
    return _jpeg(x, draw, strength).to(torch.uint8)


def gaussian(x: Tensor, covariance: tuple[float, float, float], shift: float = 0.0) -> Tensor:
    """Blur (C, H, W) with a Gaussian of the covariance (yy, xx, xy) in pixels squared.

    Multiplies with the Gaussian's own Fourier transform: any width and direction costs the same,
    and no kernel is cut off. Edges are mirrored. With
    `shift`, the result at (y, x) is what belongs to (y + shift, x + shift).
    """
    height, width = x.shape[-2:]
    bottom, right = min(_MARGIN, height - 1), min(_MARGIN, width - 1)
    if min(bottom, right) > 0:
        x = F.pad(x, (right, right, bottom, bottom), mode="reflect")
    size = x.shape[-2:]
    yy, xx, xy = covariance
    v = torch.fft.fftfreq(size[0])[:, None]
    u = torch.fft.rfftfreq(size[1])
    response = torch.exp(-2 * math.pi**2 * (yy * v**2 + xx * u**2 + 2 * xy * v * u))
    if shift:
        response = response * torch.exp(2j * math.pi * shift * (v + u))
    x = torch.fft.irfft2(torch.fft.rfft2(x) * response, s=size)
    return x[:, bottom : bottom + height, right : right + width]


def _isotropic(x: Tensor, draw: Draw, strength: float) -> Tensor:
    variance = (strength * draw.between(*_ISOTROPIC)) ** 2
    return gaussian(x, (variance, variance, 0.0))


def _anisotropic(x: Tensor, draw: Draw, strength: float) -> Tensor:
    long, short = (strength**2 * draw.between(*_ANISOTROPIC) for _ in range(2))
    angle = draw.between(0, math.pi)
    s, c = math.sin(angle), math.cos(angle)
    return gaussian(x, (long * s * s + short * c * c, long * c * c + short * s * s,
                        (long - short) * s * c))  # fmt: skip


def _rescale(x: Tensor, small: tuple[int, int], draw: Draw, strength: float) -> Tensor:
    """Made smaller by up to 2 f, so that the resizing after it may enlarge; or every n-th pixel."""
    height, width = x.shape[-2:]
    ratio = height // small[0]  # f, or half of it where the half was taken first
    if draw.chance(0.75):
        scale = draw.between(1, 2 * ratio) ** strength
        return _resize(x, (max(1, round(height / scale)), max(1, round(width / scale))), draw)
    variance = (strength * draw.between(0.1, 0.6 * ratio)) ** 2
    # The n-th pixels' centres lie (n - 1) / 2 before those of the small image's.
    return gaussian(x, (variance, variance, 0.0), shift=(ratio - 1) / 2)[:, ::ratio, ::ratio]


def _resize(x: Tensor, size: tuple[int, int], draw: Draw) -> Tensor:
    """To `size` with a random filter; bilinear and bicubic do not antialias, area does."""
    filter_ = _FILTERS[draw.below(len(_FILTERS))]
    corners = None if filter_ == "area" else False
    return F.interpolate(x[None], size=size, mode=filter_, align_corners=corners)[0]


def _noise(x: Tensor, draw: Draw, strength: float) -> Tensor:
    """Gaussian: grey or of independent channels (40 % each), or of channels mixed at random."""
    sigma = strength * draw.between(*_NOISE)
    kind = draw.between(0, 1)
    if kind < 0.4:
        return x + sigma * draw.normal(1, *x.shape[1:])
    noise = draw.normal(*x.shape)
    if kind >= 0.8:
        mixing = F.normalize(draw.normal(3, 3), dim=1)  # rows of unit length: σ for each channel
        noise = torch.einsum("dc,chw->dhw", mixing, noise)
    return x + sigma * noise


def _jpeg(x: Tensor, draw: Draw, strength: float) -> Tensor:
    quality = round(100 - strength * (100 - draw.between(*_QUALITY)))
    pixels = x.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    if quality >= 100:  # strength 0: as it is
        return torch.from_numpy(pixels).permute(2, 0, 1).float()
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=max(1, quality))
    decoded = np.array(Image.open(file))  # (H, W, 3)
    return torch.from_numpy(decoded).permute(2, 0, 1).float()


class DegradedSample(Sample):
    """small: (3, h, w) uint8, what has become of the image."""

    small: Tensor


class DegradedSource:
    """Random crops of another source's images, each with its degraded small image.

    A sample's `image` is a crop (3, side, side), and its `small` (3, side / factor, side / factor)
    what `bsr` makes of it, both uint8. Only the crop is degraded, since nothing else is trained on.

    Args:
        source: gives the images at full size.
        side: of the crops, pixels.
        factor: of the upsampler.
        seed: of crops and degradations; with it, index i of an image gives the same pair always.
        strength: see `bsr`.
        probability: of being degraded; the others' small images are averaged down.

    Raises:
        ValueError: the crops cannot be divided by the factor, or the strength is negative.
    """

    def __init__(
        self,
        source: Source | Stream,
        side: int,
        factor: int,
        seed: int = 0,
        strength: float = 1.0,
        probability: float = 1.0,
    ) -> None:
        if side < 1 or side % factor:
            raise ValueError(f"crops of {side} pixels cannot be made smaller by {factor}")
        if not 0 <= strength <= 1:
            raise ValueError(f"the degradation's strength is {strength}; it must be in [0, 1]")
        if isinstance(source, Stream):
            raise ValueError(
                "images are degraded by their number, which data that is read in order cannot be "
                "asked for; give a folder"
            )
        self.source, self.side, self.factor = source, side, factor
        self.seed, self.strength, self.probability = seed, strength, probability
        self.endless = source.endless

    def __len__(self) -> int:
        return len(self.source)

    def unseen(self) -> "DegradedSource | None":
        """See `sources.HoldsOut`."""
        other = unseen(self.source)
        if other is None:
            return None
        return DegradedSource(
            other, self.side, self.factor, self.seed, self.strength, self.probability
        )

    def __getitem__(self, index: int) -> DegradedSample:
        sample = self.source[index]
        generator = torch.Generator().manual_seed(Draws(self.seed, index, _KEY).state)
        height, width = sample["image"].shape[-2:]
        draw = Draw(generator)
        top, left = draw.below(height - self.side + 1), draw.below(width - self.side + 1)
        crop = sample["image"][:, top : top + self.side, left : left + self.side].contiguous()
        if draw.chance(self.probability):
            small = bsr(crop, self.factor, generator, self.strength)
        else:
            small = F.avg_pool2d(crop.float(), self.factor).round().to(torch.uint8)
        return {**sample, "image": crop, "small": small}

    def caption(self, index: int) -> str:
        return self.source.caption(index)

    def captions(self) -> Iterator[str]:
        return self.source.captions()

    def check(self, decode: bool = False) -> Report:
        return self.source.check(decode)

    def fingerprint(self) -> str:
        """The source's, with everything that decides crops and degradations."""
        own = f"bsr {self.side} {self.factor} {self.seed} {self.strength} {self.probability}"
        return f"{self.source.fingerprint()} {own}"
