"""A run's data with precomputed embeddings (`data.embeddings`): opened, and refused where they are
not what the run would compute itself.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unclip.checks import many, printable
from unclip.data.embedded import EmbeddedSource, alone, embedded
from unclip.data.embeddings import Embeddings, Plan
from unclip.data.mixture import Mixture
from unclip.files import as_path
from unclip.stages.recipe import Data, Recipe, open_data
from unclip.stages.spec import StageSpec


@dataclass(frozen=True)
class Precomputed:
    """What stands in the place of a run's images, or beside them.

    Args:
        source: the samples.
        embeddings: where they come from.
        line: what the run says of it, a line of the data's report.
    """

    source: EmbeddedSource | Mixture
    embeddings: Embeddings
    line: str


def precomputed(spec: StageSpec[Any], recipe: Recipe[Any]) -> Precomputed | None:
    """The run's data with its embeddings; None where it is to compute them itself.

    Raises:
        ValueError: the stage cannot use them, they are damaged, of other data, or of other parts of
            the images than training would see.
    """
    data = recipe.data
    if not data.embeddings:
        return None
    if not spec.embeddings:
        raise ValueError(
            f"{spec.name} learns from images themselves, not from embeddings: leave "
            "data.embeddings out"
        )
    beside = spec.embeddings == "beside images"
    if beside and data.embeddings_alone:
        raise ValueError(
            f"{spec.name} learns from images as well, not from embeddings alone: add --data SOURCE "
            f"with what {printable(data.embeddings)} was made of"
        )
    opened = Embeddings.open(as_path(data.embeddings, "data.embeddings"))
    if getattr(recipe.network, "condition", "image") != "image" and not opened.has_hidden:
        raise ValueError(
            f"this {spec.name} reads captions alone, of which {printable(data.embeddings)} has no "
            "hidden states: embed with --hidden-states, or leave data.embeddings out"
        )
    if data.embeddings_alone:
        source = alone(opened, data.fraction)
    else:
        source = embedded(open_data(data), opened, data.source, images=beside)
    cropped = beside and data.crop == "random"
    oblong = sum(one.oblong for one in _parts(source)) if cropped else 0
    if oblong:
        raise ValueError(
            f"{many(oblong, 'images are')} oblong, of which training sees another square in each "
            "epoch, but data.embeddings are of the middle: add --data.crop centre"
        )
    return Precomputed(source, opened, _line(opened, beside))


def of_size(spec: StageSpec[Any], data: Data) -> Data:
    """The data with the images' size that embeddings were made of, for a stage that reads no images
    beside them."""
    if not data.embeddings or spec.embeddings != "alone":
        return data
    return replace(data, size=Plan.read(Path(data.embeddings)).size)


def _parts(source: EmbeddedSource | Mixture) -> list[EmbeddedSource]:
    parts = source.parts if isinstance(source, Mixture) else [source]
    return [one for one in parts if isinstance(one, EmbeddedSource)]


def _line(opened: Embeddings, beside: bool) -> str:
    plan = opened.plan
    captions = "captions' hidden states too" if opened.has_hidden else "CLIP reads the captions"
    images = "images are read, CLIP does not see them" if beside else "no image is read"
    where = printable(str(opened.folder))
    return f"  embeddings: {where}, of the middle of images at {plan.size} px; {images}; {captions}"
