"""Whether images suit their captions, by a CLIP: the mean cosine, and retrieval both ways.

A CLIP that the model was trained with is a lenient judge: its decoder draws what that CLIP sees.

Shapes: N images and captions, D embedding width.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from unclip.evaluation.intervals import Estimate, mean
from unclip.evaluation.metrics.retrieval import retrieval
from unclip.evaluation.report import Conditions, Report, estimate_of

SCORE = "CLIP score"


def clip_scores(z_i: Tensor, z_t: Tensor) -> Tensor:
    """100 times the cosine of each image's embedding (N, D) and its caption's (N,), at least 0."""
    cosine = (F.normalize(z_i.double(), dim=-1) * F.normalize(z_t.double(), dim=-1)).sum(dim=-1)
    return 100 * cosine.clamp(min=0)


def agreement(
    z_i: Tensor, z_t: Tensor, captions: Sequence[str], under: Conditions, of: str, report: Report
) -> dict[str, Estimate]:
    """CLIP score (100 times the cosine) and recall among all N, into the report."""
    found = {SCORE: mean(clip_scores(z_i, z_t))}
    among = retrieval(z_t, z_i, captions)
    for name, rates in (
        ("text → image", among.text_to_image), ("image → text", among.image_to_text),
    ):  # fmt: skip
        found |= {
            f"{name}, among {among.among}, first {k}": estimate_of(r) for k, r in rates.items()
        }
    report.add(under, of, found, "higher")
    return found
