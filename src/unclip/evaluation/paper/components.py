"""(f) Images from the first principal components of z_i (section 4, figure 7).

Shapes: N images, D width of z_i.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F

from unclip.data.world.scene import Scene
from unclip.evaluation.intervals import mean
from unclip.evaluation.paper.lab import Ask, Lab
from unclip.evaluation.paper.study import Cell, Row, Study, having, number
from unclip.evaluation.studies.edits import ATTRIBUTES, score_kept, single
from unclip.networks.pca import Components, Moments

COUNTS: Final = (0, 1, 2, 4, 8, 12, 16, 20, 30, 40, 80, 120, 160, 200, 320)


def counts(width: int) -> list[int]:
    """Those that embeddings of this width have, and all of them."""
    return [*(count for count in COUNTS if count < width), width]


def cells(lab: Lab) -> list[Cell]:
    """A row for each number of components, all with the same noise, without captions."""
    width = lab.models.bundled.clip.width
    found = []
    for count in counts(width):
        ask = _ask(lab, count)
        found.append(Cell({"components": count}, partial(_measure, lab, ask, count), [ask]))
    return found


def _ask(lab: Lab, count: int) -> Ask:
    captions = ("",) * max(16, lab.n // 2)
    return Ask(captions, given="z_i", settings=lab.settings(), stream=2, of=f"{count} components")


def _measure(lab: Lab, ask: Ask, count: int) -> dict[str, Any]:
    scenes, z_i = _subjects(lab, len(ask.captions))
    basis = Components.of(Moments.of(_embeddings(lab)))
    rebuilt = basis.rebuilt(z_i, count)
    middle = basis.mean.float()
    seen = lab.draw(ask, rebuilt)
    back = F.cosine_similarity(seen.features["clip"] - middle, z_i - middle)
    return {
        "explained": basis.explained(count),
        **score_kept(seen.found, scenes),
        "cosine to z_i": mean(back),
    }


def _subjects(lab: Lab, count: int) -> tuple[list[Scene], torch.Tensor]:
    """Scenes of one object, and their pictures' z_i."""
    scenes, pixels = lab.paint(single(lab.config), range(count))
    return scenes, lab.image_embeddings(pixels)


def _embeddings(lab: Lab) -> torch.Tensor:
    """That the components are of: both sets of real images."""
    return torch.cat([lab.truth.features["clip"], lab.reference.features["clip"]])


def verdict(rows: Sequence[Row]) -> str:
    """How many components each attribute takes to reach nine tenths of what all of them give."""
    rows = sorted(rows, key=lambda row: row["setting"]["components"])
    if len(rows) < 3:
        return "Not measured yet."
    full = rows[-1]
    needed = {}
    for name in ATTRIBUTES:
        least = 0.9 * number(full, name)
        enough = [row for row in rows if number(row, name) >= least]
        needed[name] = enough[0]["setting"]["components"]
    order = sorted(needed, key=lambda name: needed[name])
    shares = ", ".join(
        f"{name} with {needed[name]} (of {number(full, name):.0%} with all)" for name in order
    )
    spread = having(rows, components=needed[order[-1]])[0]
    return (
        f"Nine tenths of what all {full['setting']['components']} components give are there, by "
        f"attribute: {shares}; {number(spread, 'explained'):.0%} of the variance is then in. "
        + (
            "As in the paper, the first components hold the coarse (what fills most pixels) and "
            "later ones the finer."
            if order[0] != "object"
            else "The paper has coarse semantics first and detail later; here it is the object's "
            "shape that comes first, as captions always name it and CLIP learned to tell by it."
        )
    )


STUDY: Final = Study(
    "f",
    "components",
    "PCA probing",
    "Scenes of one object, decoded without a caption from z_i rebuilt of its first components, "
    "with the same noise; how often the judge finds the scene's object, colour and background.",
    "Section 4, figure 7: with few of 320 components an image keeps the kind of thing that it "
    "shows, and details come with more.",
    ("explained", "object", "colour", "background", "all", "cosine to z_i"),
    cells,
    verdict,
)
