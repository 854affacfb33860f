"""The Fréchet distance between generated and real images, in CLIP's embeddings (FID).

Heusel et al. (arXiv 1706.08500) take features of Inception; here they are CLIP's image embeddings
z_i, which see what the model was trained to see (Kynkäänniemi et al., arXiv 2203.06026, argue for
CLIP's). Numbers of different CLIPs cannot be compared, and of few images neither: the distance has
a bias that shrinks with their number, so real images beside other real ones say where zero is. Both
distances are to the same other images: neither side shares captions with what it is held against.

Shapes: N images, D embedding width, H × W pixels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor

from unclip.checks import seed_after
from unclip.data.sources import Source, Stream, first_captions, length, read
from unclip.evaluation.metrics.composition import Generate
from unclip.evaluation.metrics.frechet import frechet_distance
from unclip.networks.pca import Moments
from unclip.pixels import to_signed
from unclip.stages.conditioning import FrozenCLIP

_BATCH: Final = 64


@dataclass(frozen=True)
class Fid:
    """Distances to real images, samples n … 2 n, in CLIP's embeddings; lower is better.

    Attributes:
        images: n, how many there are on each side.
        generated: of images that were made for the captions of samples 0 … n.
        real: of those samples' own images: what a perfect generator gets.
    """

    images: int
    generated: float
    real: float

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def image_moments(clip: FrozenCLIP, batches: Iterable[Tensor]) -> Moments:
    """Moments of z_i over any number of batches of images (N, 3, H, W) in [-1, 1]."""
    moments = Moments(clip.width)
    for images in batches:
        moments.add(clip.image(images.to(clip.device)))
    return moments


def fid(clip: FrozenCLIP, images: Iterable[Tensor], others: Iterable[Tensor]) -> float:
    """The distance between two sets of images, given as batches (N, 3, H, W) in [-1, 1].

    Raises:
        ValueError: see `frechet_distance`; the model has no image encoder.
    """
    return frechet_distance(image_moments(clip, images), image_moments(clip, others))


def evaluate_fid(
    clip: FrozenCLIP,
    generate: Generate,
    source: Source | Stream,
    n: int = 1000,
    batch: int = _BATCH,
    seed: int = 0,
) -> Fid:
    """Generate an image for the captions of the first `n` samples, and compare with the next `n`.

    Args:
        clip: whose embeddings are compared.
        generate: (captions, seed) → images (N, 3, H, H) in [-1, 1].
        source: real images with captions, at the size of the generated ones.
        seed: of the first image; the following ones count on.

    Raises:
        ValueError: n is below two, or there are fewer than 2 n images.
    """
    if n < 2 or batch < 1:
        raise ValueError(
            f"n is {n} and batch is {batch}; take 2 images or more, in batches of 1 or more"
        )
    if length(source) < 2 * n:
        raise ValueError(
            f"{n} generated images are compared with the real ones of as many other captions, but "
            f"the data has only {length(source)}: ask for {length(source) // 2} or fewer"
        )

    def real(first: int, last: int) -> Moments:
        return image_moments(clip, real_images(source, range(first, last), batch))

    starts = range(0, n, batch)
    captions = first_captions(source, n)
    made = image_moments(
        clip, (generate(captions[i : i + batch], seed_after(seed, i)) for i in starts)
    )
    others = real(n, 2 * n)
    return Fid(n, frechet_distance(made, others), frechet_distance(real(0, n), others))


def real_images(source: Source | Stream, indices: range, batch: int = _BATCH) -> Iterator[Tensor]:
    """Batches (N, 3, H, W) in [-1, 1] of a source's images."""
    samples = read(source, indices)
    while part := [sample["image"] for sample in islice(samples, batch)]:
        yield to_signed(torch.stack(part))
