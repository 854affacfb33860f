"""Captioned images to measure a model on: such as none of its stages was trained on, where the
folder says which those are.

Shapes: N images of H × H pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.checks import many, printable
from unclip.data.captions import ENDLESS
from unclip.data.held_out import FEWEST, fraction_of
from unclip.data.registry import format_of, open_source, parse
from unclip.data.sources import Source, Stream, first_captions, length, read
from unclip.data.trained_on import data_of
from unclip.evaluation.metrics.likeness import LEAST
from unclip.pixels import to_signed
from unclip.stages.catalogue import STAGES
from unclip.storage.folder import ModelFolder

_WRONG = 256  # captions that an image's own is held against
Captioned = tuple[list[str], Tensor]
"""N captions and their images (N, 3, H, H) in [-1, 1]."""


@dataclass(frozen=True)
class Unseen:
    """Data that is opened to measure on.

    Attributes:
        source: the images, at `size` pixels.
        split: "held-out", or "all" where training may have seen them.
        said: both in words.
        noted: the data's name for others: that of a folder is nobody's business.
    """

    source: Source | Stream
    size: int
    split: str
    said: str
    noted: str

    @classmethod
    def open(cls, model: ModelFolder, data: str | None, size: int, template: str = "") -> "Unseen":
        """Data for a model.

        Args:
            data: its name; what the folder says that it was trained on, if left out.
            template: of captions of images that only a class is known of.

        Raises:
            ValueError: the folder does not say it; and see `open_source`.
        """
        name, options = named(model, data)
        kind = format_of(name)
        fraction = fraction_of(model) if kind.holds_out == "fraction" else 0.0

        def opened(split: str) -> Source | Stream:
            side = max(size, kind.smallest)
            return open_source(
                name, size=side, split=split, held_out=fraction, options=options, template=template
            )

        split = "held-out" if fraction or kind.holds_out == "itself" else "all"
        source = opened(split)
        held_out = length(source) if fraction else 0
        if fraction and held_out < FEWEST:
            split, source = "all", opened("all")
        there = length(source)
        said = f"{many(there, 'images')} of {name}" if there < ENDLESS else name
        if fraction and split == "held-out":
            said += f", the {100 * fraction:g} % that training held out"
        elif held_out:
            said += f", of which training held out only {held_out}, too few, and saw the others"
        elif split == "all":
            said += ", which the model may have been trained on"
        else:
            said += ", scenes that training holds out"
        noted = name if kind.alone else f"a {parse(name)[0]}"
        return cls(source, size, split, printable(said), noted)

    def captions(self, most: int) -> list[str]:
        """Those of the first images, at most so many."""
        first = range(min(most, length(self.source)))
        return [sample["caption"] for sample in read(self.source, first)]

    def wrong(self) -> list[str]:
        """Captions for images to be told apart from, without reading images."""
        return first_captions(self.source, _WRONG)

    def two_sets(self, count: int, seed: int) -> tuple[Captioned, Captioned]:
        """Captioned images, `count` or as many as there are, and as many others; where there are
        too few, the same again.

        Args:
            seed: of which images are taken, where there are more.

        Raises:
            ValueError: there are too few to measure anything on.
        """
        there = length(self.source)
        if there < LEAST:
            raise ValueError(
                f"the data has {many(there, 'captioned images')} to measure on ({self.split}); "
                f"it takes {LEAST} or more"
            )
        count = min(count, there)
        captions, images = self._read(min(2 * count, there), seed)
        first = captions[:count], images[:count]
        enough = len(captions) == 2 * count
        return first, (captions[count:], images[count:]) if enough else first

    def _read(self, count: int, seed: int) -> Captioned:
        order = list(range(count))
        if length(self.source) < ENDLESS and not isinstance(self.source, Stream):
            generator = torch.Generator().manual_seed(seed % 2**63)
            order = torch.randperm(length(self.source), generator=generator).tolist()[:count]
        samples = list(read(self.source, order))
        images = to_signed(torch.stack([sample["image"] for sample in samples]))
        if images.shape[-1] != self.size:  # the data's smallest is larger
            images = F.interpolate(images, size=(self.size, self.size), mode="area")
        return [sample["caption"] for sample in samples], images


def named(model: ModelFolder, given: str | None) -> tuple[str, Mapping[str, Any]]:
    """Name and options of the data that a model was trained on.

    Args:
        given: its name, if it is known.

    Raises:
        ValueError: neither that, nor a note in the folder.
    """
    noted = data_of(model, ("decoder", *STAGES))
    if noted is not None and (given is None or parse(given)[0] == parse(noted[0])[0]):
        return given or noted[0], noted[1]
    if given is None:
        raise ValueError(
            f"{model.path} does not say what it was trained on: give the folder of images with "
            "--data; what its training held out is taken"
        )
    return given, {}
