"""Rendered text: captions that ask for a letter, pictures of letters, and a reader of them.

The reader holds an image against pictures of ten letters in several sizes and places, and takes the
one that its contrasts agree with best; it says something of any image, and is right by chance in a
tenth of them.

Shapes: N images, H × W pixels, T templates of s × s.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unclip.data.world.scene import COLOURS, PALETTE
from unclip.data.world.scenery import visible_colours
from unclip.pixels import to_signed
from unclip.randomness import Draws

LETTERS: Final = "ABEHKLMSTX"
_SIDE: Final = 64  # pixels that images are read at
_HEIGHTS: Final = (24, 32, 42)  # of letters, in pixels of that side
_TEXTS: Final = 93  # key of the stream that texts are drawn from


@dataclass(frozen=True)
class Text:
    """A picture of a letter: its colour, and that of the background."""

    letter: str
    colour: str
    behind: str
    place: tuple[float, float]
    height: float

    @property
    def caption(self) -> str:
        return f'the letter "{self.letter}" in {self.colour} on a {self.behind} background'


def text(index: int) -> Text:
    """Text number `index`: all letters in turn."""
    draws = Draws(_TEXTS, index)
    behind = draws.pick(COLOURS)
    colour = draws.pick(visible_colours("flat", (behind,)))
    place = (draws.between(40, 60) / 100, draws.between(40, 60) / 100)
    return Text(LETTERS[index % len(LETTERS)], colour, behind, place, draws.between(38, 62) / 100)


def drawn(texts: Sequence[Text], size: int, batch: int) -> Iterator[Tensor]:
    """Batches of pictures (n, 3, H, H) in [-1, 1]: what a model that can write would make."""
    for first in range(0, len(texts), batch):
        pixels = np.stack([_picture(one, size) for one in texts[first : first + batch]])
        yield to_signed(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def _picture(one: Text, size: int) -> NDArray[np.uint8]:
    canvas = Image.new("RGB", (size, size), PALETTE[one.behind])
    where = (one.place[0] * size, one.place[1] * size)
    font = ImageFont.load_default(one.height * size)
    ImageDraw.Draw(canvas).text(where, one.letter, PALETTE[one.colour], font, anchor="mm")
    return np.asarray(canvas)


class Reader:
    """Images (N, 3, H, W) in [-1, 1] → the letter that each is most like."""

    def __init__(self, device: torch.device) -> None:
        self.templates = [template.to(device) for template in map(_templates, _HEIGHTS)]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[str]:
        device = self.templates[0].device
        images = F.interpolate(images.to(device, torch.float32), (_SIDE, _SIDE), mode="area")
        scores = torch.stack([self._agreement(images, one) for one in self.templates])
        best = scores.amax(dim=0).argmax(dim=1)
        return [LETTERS[k] for k in best.tolist()]

    def _agreement(self, images: Tensor, templates: Tensor) -> Tensor:
        """(N, 10): the largest correlation of any place, of the channel that shows it best."""
        side = templates.shape[-1]
        planes = images.flatten(0, 1)[:, None]  # (N · 3, 1, h, w)
        ones = torch.ones(1, 1, side, side, device=images.device)
        mean = F.conv2d(planes, ones) / side**2
        spread = (F.conv2d(planes.square(), ones) / side**2 - mean.square()).clamp(min=1e-4).sqrt()
        found = F.conv2d(planes, templates) / spread  # templates have mean 0 and unit deviation
        return found.abs().flatten(2).amax(dim=2).view(len(images), 3, -1).amax(dim=1)


def _templates(height: int) -> Tensor:
    """(10, 1, s, s), each of mean 0 and of unit deviation, divided by s²."""
    side = round(height * 1.15)
    rows = []
    for letter in LETTERS:
        canvas = Image.new("L", (side, side))
        font = ImageFont.load_default(float(height))
        ImageDraw.Draw(canvas).text((side / 2, side / 2), letter, 255, font, anchor="mm")
        plane = torch.from_numpy(np.asarray(canvas).astype(np.float32))
        rows.append((plane - plane.mean()) / plane.std(correction=0))
    return torch.stack(rows)[:, None] / side**2
