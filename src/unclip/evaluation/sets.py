"""Which captions images are made for, and which real images they are held against.

| held against | real images | for |
|---|---|---|
| others | as many of other captions | what real images get beside them says where zero is |
| same | those of the captions themselves | little data |
| all | all of the split | figures as papers give them for COCO |

Shapes: N images of H × H pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

import torch
from torch import Tensor

from unclip.checks import many
from unclip.data.captions import ENDLESS
from unclip.data.sources import Source, Stream, first_captions, length, read
from unclip.pixels import to_signed

Against = Literal["others", "same", "all"]
FEW: Final = 1000
"""Images, below which distances and neighbours say little beyond a comparison at equal numbers."""
_BATCH: Final = 64


@dataclass(frozen=True)
class Sets:
    """The first `count` samples of a source, and what they are held against.

    Args:
        source: captioned images, in an order in which the first stand for all.
        count: captions that images are made for.
        against: see the top of this file.
    """

    source: Source | Stream
    count: int
    against: Against = "others"

    @classmethod
    def choose(
        cls,
        source: Source | Stream,
        asked: int | None,
        otherwise: int,
        against: Against,
        captioned: bool = True,
    ) -> "Sets":
        """As many as are asked for; where nobody asks, `otherwise`, or as many as there are.

        Args:
            captioned: whether captions are of use.

        Raises:
            ValueError: there are too few, or none has a caption.
        """
        there = length(source)
        if against == "all" and there >= ENDLESS:
            raise ValueError(
                "this data has no end, so that images cannot be held against all of it; leave "
                "--against out, or give others"
            )
        most = there // 2 if against == "others" else there
        count = min(otherwise, most) if asked is None else asked
        if count < 2:
            said = f"n is {asked}" if asked is not None else f"the data has {many(there, 'images')}"
            raise ValueError(f"{said}; take 2 images or more on either side")
        if count > most:
            why = (
                f"{count} generated images are compared with the real ones of as many other "
                "captions, but" if against == "others" else f"{count} captions were asked for, but"
            )  # fmt: skip
            raise ValueError(f"{why} the data has only {there}: ask for {most} or fewer")
        if captioned and not any(caption.strip() for caption in first_captions(source, count)):
            raise ValueError("the data has no captions to make images for")
        return cls(source, count, against)

    @property
    def captions(self) -> list[str]:
        return first_captions(self.source, self.count)

    @property
    def own(self) -> range:
        """Positions of the captions' own images."""
        return range(self.count)

    @property
    def reference(self) -> range:
        """Positions of the real images that generated ones are held against."""
        if self.against == "others":
            return range(self.count, 2 * self.count)
        return self.own if self.against == "same" else range(length(self.source))

    @property
    def said(self) -> str:
        """What they are held against, in words."""
        return {
            "others": "real images of as many other captions",
            "same": "the real images of the same captions",
            "all": "all real images of the split",
        }[self.against]

    def images(self, positions: range, batch_size: int = _BATCH) -> Iterator[Tensor]:
        """Real images in batches (N, 3, H, H) in [-1, 1]."""
        samples = read(self.source, positions)
        while part := [sample["image"] for sample in islice(samples, batch_size)]:
            yield to_signed(torch.stack(part))

    def notes(self) -> list[str]:
        """What few images mean for the numbers."""
        if self.count >= FEW:
            return []
        there = length(self.source)
        few = "all that the split allows" if self.count in (there, there // 2) else "few"
        return [
            f"{self.count:,} images are {few}: compare these numbers only with those of as many "
            "images. FID is too large with few, as is what real images get; precision, recall, "
            "coverage and retrieval among few are flattering"
        ]
