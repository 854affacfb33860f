"""Networks that start from another model's weights, where they listen to another CLIP.

A prior or a decoder knows the embeddings, captions and tokens of the CLIP that it was trained with.
For a model with a CLIP of its own, what has the same name and shape is taken and the rest is fresh.
"""

import warnings
from collections.abc import Sequence

from torch import nn

from unclip.checks import Notice, printable

_SHOWN = 3  # tensors that a sentence names


def take(network: nn.Module, origin: nn.Module, anew: Sequence[str] = ()) -> list[str]:
    """Give `network` the tensors of `origin` that have its names and shapes.

    Args:
        anew: beginnings of names of what is measured on the CLIP, and never taken.

    Returns:
        The names of the tensors that stay as they were in `network`, without those in `anew`.
    """
    mine, theirs = network.state_dict(), origin.state_dict()
    measured = tuple(anew)
    wanted = [key for key in mine if not (measured and key.startswith(measured))]
    fits = {
        key: theirs[key] for key in wanted if key in theirs and theirs[key].shape == mine[key].shape
    }
    network.load_state_dict(fits, strict=False)
    return [key for key in wanted if key not in fits]


def say_what_stays(what: str, origin: object, network: nn.Module, left: Sequence[str]) -> None:
    """A notice of what starts anew in a stage that was given another model's tensors."""
    count = len(network.state_dict())
    named = ", ".join(left[:_SHOWN]) + (", …" if len(left) > _SHOWN else "")
    said = f"all but {len(left):,} of {count:,} tensors are taken; these start anew: {named}"
    warnings.warn(
        f"the {what} starts from {printable(str(origin))} and learns to read this model's CLIP: "
        + (said if left else f"all {count:,} tensors are taken"),
        Notice,
        stacklevel=2,
    )
