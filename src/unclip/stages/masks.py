"""What a decoder with mask channels sees of an image, and the masks that it is trained on.

GLIDE (Nichol et al., arXiv 2112.10741, section 2.4): "random regions of training examples are
erased, and the remaining portions are fed into the model along with a mask channel". Which regions
it does not say.

Shapes: N images, H × W pixels.
"""

import torch
from torch import Tensor

from unclip import draws


def mask_channels(images: Tensor, unknown: Tensor, apart: bool) -> Tensor:
    """What is known of images (N, C, H, W), 0 elsewhere, and the mask, 1 where nothing is known.

    Args:
        unknown: (N or 1, 1, H, W), boolean.
        apart: whether mask channels are an addition: all of them are 0 then in images of which
            nothing is known.

    Returns:
        (N, C + 1, H, W); with all unknown, `images` are not read.
    """
    mask = unknown.expand_as(images[:, :1]).to(images.dtype)
    if apart:
        mask = mask * ~unknown.all(dim=(2, 3), keepdim=True)
    return torch.cat([images.masked_fill(unknown, 0), mask], dim=1)


def random_masks(
    count: int, size: int, generator: torch.Generator, nothing: float = 0.25
) -> Tensor:
    """Masks (count, 1, size, size) on the generator's device, True where an image is erased.

    Those of a share `nothing` leave nothing known, so that the decoder still makes whole images;
    the others are half boxes with sides of 20 to 80 % of the image's, half strokes through four
    points, 10 to 30 % wide.
    """
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return draws.uniform(count, *shape, generator=generator)

    middles = (torch.arange(size, device=device) + 0.5) / size
    pixels = torch.stack(torch.meshgrid(middles, middles, indexing="ij"), dim=-1)  # (H, W, 2)
    sides = 0.2 + 0.6 * uniform(1, 1, 2)
    corner = uniform(1, 1, 2) * (1 - sides)
    box = ((pixels >= corner) & (pixels < corner + sides)).all(dim=-1)  # (N, H, W)
    points, radius = uniform(4, 1, 1, 2), 0.05 + 0.1 * uniform(1, 1)
    start, along = points[:, :-1], points.diff(dim=1)  # three straight pieces: (N, 3, 1, 1, 2)
    way = ((pixels - start) * along).sum(-1) / along.square().sum(-1).clamp(min=1e-12)
    nearest = start + way.clamp(0, 1)[..., None] * along  # (N, 3, H, W, 2)
    stroke = ((pixels - nearest).norm(dim=-1) < radius[:, None]).any(dim=1)
    kind = uniform(1, 1)
    erased = torch.where(kind < (1 + nothing) / 2, box, stroke) | (kind < nothing)
    return erased[:, None]
