"""Whether images suit their captions, by a CLIP: the mean cosine, and retrieval both ways.

A CLIP that the model was trained with is a lenient judge: its decoder draws what that CLIP sees.

Shapes: N images and captions, D embedding width.
"""

from collections.abc import Sequence

from torch import Tensor

from unclip.evaluation.intervals import Estimate
from unclip.evaluation.metrics.retrieval import retrieval
from unclip.evaluation.metrics.spread import clip_score
from unclip.evaluation.report import Conditions, Report, estimate_of

SCORE = "CLIP score"


def agreement(
    z_i: Tensor, z_t: Tensor, captions: Sequence[str], under: Conditions, of: str, report: Report
) -> dict[str, Estimate]:
    """CLIP score (100 times the cosine) and recall among all N, into the report."""
    found = {SCORE: clip_score(z_i, z_t)}
    among = retrieval(z_t, z_i, captions)
    for name, rates in (
        ("text → image", among.text_to_image), ("image → text", among.image_to_text),
    ):  # fmt: skip
        found |= {
            f"{name}, among {among.among}, first {k}": estimate_of(r) for k, r in rates.items()
        }
    report.add(under, of, found, "higher")
    return found
