"""How much of an image its embedding keeps: images decoded from their own z_i (section 3), with
fresh noise, and with the x_T that DDIM's inversion finds, which should lead back to the image.

Shapes: N images, D width of features, H × H pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.data.transforms import from_bytes
from unclip.evaluation.features.extractor import Extractor
from unclip.evaluation.generated import Draw, Wanted
from unclip.evaluation.intervals import Estimate, Rate, mean
from unclip.evaluation.metrics.frechet import fid
from unclip.evaluation.metrics.retrieval import ranks
from unclip.evaluation.report import Conditions, Report, estimate_of
from unclip.evaluation.studies.upsampling import ssim
from unclip.pipeline.settings import Settings
from unclip.pixels import psnr, to_signed

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

FRESH, INVERTED = "from z_i, fresh noise", "from z_i and its own x_T"
SMALLEST: Final = 11  # pixels of a side that SSIM needs


def of_images(images: Sequence[Tensor], seed: int) -> list[Wanted]:
    """What is wanted of images (3, H, H) uint8: something made of each, without a caption."""
    return [Wanted("", seed, of=digest(image)) for image in images]


def digest(image: Tensor) -> str:
    """Of an image's pixels (3, H, H) uint8."""
    text = f"{tuple(image.shape)}".encode() + image.contiguous().numpy().tobytes()
    return sha256(text).hexdigest()[:24]


def from_embeddings(
    pipe: "Pipeline",
    settings: Settings,
    images: Sequence[Tensor],
    progress: Callable[[int], Any],
    invert_steps: int = 0,
) -> Draw:
    """Draws reconstructions of images (3, H, H) uint8, which `of_images` names.

    Args:
        invert_steps: of the inversion that x_T is found by; 0 draws it.
        progress: is told of each sampling step how many images it was of.
    """
    known = {digest(image): image for image in images}

    def told(*step: Any) -> None:
        progress(step[-1]["images"])

    def draw(wanted: Sequence[Wanted]) -> Tensor:
        pictures = [from_bytes(known[one.of]) for one in wanted]
        common: dict[str, Any] = {
            "output_type": "tensor",
            "batch_size": len(wanted),
            "callback_on_step_end": told,
            "generator": [torch.Generator().manual_seed(one.seed) for one in wanted],
        }
        if not invert_steps:
            made = pipe.vary(pictures, settings=settings, **common)
        else:
            latents = pipe.invert(
                pictures, invert_steps, batch_size=len(wanted), callback_on_step_end=told
            )
            made = pipe.reconstruct(latents, settings=settings, **common)
        found: Tensor = made.images
        return found

    return draw


def in_pixels(made: Tensor, real: Tensor, under: Conditions, of: str, report: Report) -> None:
    """PSNR and, of images that are large enough, SSIM of images (N, 3, H, H) in [-1, 1]."""
    found = {"PSNR, dB": mean(psnr(made, real).clamp(max=100))}
    if made.shape[-1] >= SMALLEST:
        found["SSIM"] = mean(ssim(made, real))
    report.add(under, of, found, "higher")


def in_features(
    made: Tensor, real: Tensor, extractor: Extractor, under: Conditions, of: str, report: Report
) -> Mapping[str, Estimate]:
    """Cosine, how often the nearest real image is the own one, and FID, of features (N, D).

    Not KID, whose lack of bias needs sets that are drawn apart: of pairs it is far below 0.
    """
    under = under.by(extractor)
    cosine = F.cosine_similarity(made.double(), real.double(), dim=1)
    found_own = ranks(made, real) == 0
    own = Rate(int(found_own.sum()), len(found_own))
    near = {
        "cosine to the image": mean(cosine),
        f"nearest of {len(real)} is the image": estimate_of(own),
    }
    report.add(under, of, near, "higher")
    far = {"FID": fid(made, real)}
    report.add(under, of, far, "lower")
    return {**near, **far}


def resized(images: Sequence[Tensor], size: int) -> Tensor:
    """Images (3, H, H) uint8 in [-1, 1] at the size (N, 3, size, size) of what is held against
    them, means of pixels where they are larger."""
    x = to_signed(torch.stack(list(images)))
    return x if x.shape[-1] == size else F.interpolate(x, size=(size, size), mode="area")
