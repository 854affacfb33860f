"""What a prior is, P(z_i | y), whatever its network does (section 2.2).

Pipeline and folders know priors by this protocol and by their rows in
`stages/catalogue.py` alone.

Shapes: N captions, M candidates per caption, D embedding width.
"""

from typing import Annotated, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from unclip.config import Between
from unclip.diffusion.prediction import Noise
from unclip.diffusion.samplers import Callback
from unclip.diffusion.sampling import Sampling
from unclip.stages.base import ComponentClasses, Stage
from unclip.stages.conditioning import FrozenCLIP, TextCondition
from unclip.storage.folder import ModelFolder

MAX_CANDIDATES = 1024  # as `Candidates` says
Measured = Annotated[int, Between(1, 2**22)]  # images that statistics are measured on


@runtime_checkable
class Prior(Stage, Protocol):
    """A stage that draws z_i for captions.

    Attributes:
        KIND: what a request calls it, as in `Settings.prior`.
        COMPONENTS: what it is in a model folder; the first names it.
    """

    KIND: ClassVar[str]
    COMPONENTS: ClassVar[ComponentClasses]

    @classmethod
    def load(cls, folder: ModelFolder, clip: FrozenCLIP, dtype: torch.dtype | None = None) -> Self:
        """Read its components; `ValueError` where they do not fit `clip`."""
        ...

    def steps_for(self, sampling: Sampling) -> int:
        """How many steps a z_i takes, as callbacks count them; `ValueError` for too many."""
        ...

    def sample(
        self,
        text: TextCondition,
        sampling: Sampling,
        noise: Noise,
        null: TextCondition | None = None,
        callback: Callback | None = None,
        candidates: int | None = None,
    ) -> Tensor:
        """z_i (N, D) for N captions, as CLIP gives them.

        Args:
            null: the empty caption, for guidance; encoded by the prior if it is not given.
            noise: draws for N · M rows, the candidates of a caption in a row.
            candidates: M, of which the one closest to z_t is kept; its own number if left out.
        """
        ...


@runtime_checkable
class Noisy(Protocol):
    """A prior that begins with noise, which a caller may give (`prior_latents`)."""

    def noise_shape(self, count: int, candidates: int | None = None) -> tuple[int, int]:
        """Of what `sample` draws first for `count` captions, N · M rows; as there, `candidates` is
        its own number if left out."""
        ...


def check_candidates(candidates: int) -> int:
    """How many z_i are drawn for a caption; `ValueError` for none."""
    if candidates < 1:
        raise ValueError(f"the prior was asked for {candidates} candidates; ask for at least 1")
    return candidates


def best_candidates(z_i: Tensor, z_t: Tensor) -> Tensor:
    """Of each caption's candidates z_i (N · M, D), the one with the highest dot product with z_t.

    Section 2.2. z_t is (N, D); the result is (N, D).
    """
    groups = z_i.view(len(z_t), -1, z_i.shape[-1])  # (N, M, D)
    best = torch.einsum("nmd,nd->nm", groups, z_t.to(groups)).argmax(dim=1)
    return groups[torch.arange(len(z_t), device=z_i.device), best]
