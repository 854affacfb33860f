"""What a decoder is put together from: a space, an encoder that it listens to, perhaps a student.

There is one space now, pixels, one encoder, the frozen CLIP, and two students, of guidance and of
few steps. A VAE's latents or another encoder are further classes with these members;
`tests/stages/decoder/test_protocols.py` has the least of each.

Shapes: N images of H × W pixels, C channels of the space, D embedding width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from unclip.diffusion.sampling import Plan, Sampling
from unclip.networks.clip_config import CLIPTextConfig
from unclip.stages.conditioning import TextCondition
from unclip.storage.folder import ModelFolder

Branches = Callable[[Tensor, float, bool], Tensor]
"""A network as guidance asks it: (x, t, both) → raw output; with `both`, x is [x, x], and the
output has the conditional answers before the unconditional ones."""


class Space(Protocol):
    """Where the diffusion takes place.

    Attributes:
        channels: C.
        factor: pixels along a side of what one place of the space stands for.
        discrete: whether its values are those of 8-bit pixels in [-1, 1], as the bound assumes that
            trains the variance (Improved DDPM); else the process has fixed variances.
    """

    @property
    def channels(self) -> int: ...

    @property
    def factor(self) -> int: ...

    @property
    def discrete(self) -> bool: ...

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] → (N, C, H / factor, W / factor)."""
        ...

    def decode(self, x: Tensor) -> Tensor:
        """The inverse, as far as there is one."""
        ...


class Pixels:
    """The images themselves, as in the paper."""

    channels: ClassVar[int] = 3
    factor: ClassVar[int] = 1
    discrete: ClassVar[bool] = True

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, x: Tensor) -> Tensor:
        return x


class Encoder(Protocol):
    """What says what an image or a caption is; nothing of it trains here.

    Attributes:
        text_sizes: of what reads captions: the widths of embeddings and hidden states, and the
            tokens that a text Transformer of the decoder's own reads.
    """

    @property
    def width(self) -> int:
        """D."""
        ...

    @property
    def text_sizes(self) -> CLIPTextConfig: ...

    def image(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] → embeddings (N, D), fp32."""
        ...

    def text(self, captions: Sequence[str]) -> TextCondition:
        """N captions → their embeddings (N, D) and hidden states."""
        ...


class Student(Protocol):
    """What answers at some timesteps in the decoder's place, at fewer evaluations."""

    @property
    def network(self) -> nn.Module: ...

    def knows(self, scale: float) -> bool:
        """Whether it has learned guidance at this scale."""
        ...

    def check(self, sampling: Sampling) -> None:
        """`ValueError` for guidance or steps that it does not know, with those that it knows."""
        ...

    def takes(self, plan: Plan) -> Callable[[float], bool]:
        """The timesteps at which it answers, where it was asked for."""
        ...

    def samples(self, sampling: Sampling) -> bool:
        """Whether it has learned to answer as this asks."""
        ...

    def answers(
        self, timesteps: Sequence[float], scale: float, given: Mapping[str, Any]
    ) -> Branches:
        """The student for planned timesteps, with what `UNet.conditions` is given."""
        ...

    def save(self, folder: ModelFolder) -> None:
        """Write it beside the decoder that it belongs to."""
        ...


def pooled(unknown: Tensor, factor: int) -> Tensor:
    """A mask (N, 1, H, W) in a space: unknown is what any unknown pixel is a part of."""
    if factor == 1:
        return unknown
    return torch.nn.functional.max_pool2d(unknown.float(), factor).bool()
