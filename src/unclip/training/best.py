"""The weights that do best on held-out images, kept beside the newest and published.

The best have the lowest loss or, where a stage says an accuracy (CLIP), the highest: a contrastive
loss on few held-out pairs soon rises with the network's confidence, while it still tells more of
them apart.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

_WORSE = 0.02  # of the lowest cost: a rise by more is not taken for chance
_SINCE = 2  # measurements since the lowest


@dataclass(frozen=True)
class Measured:
    """What the averaged weights do after `step` steps; step 0 is none.

    Args:
        loss: on held-out images.
        seen: on as many that are learned from, with the same noise.
        accuracy: on held-out images, 0 to 1, where the stage says one.
    """

    step: int = 0
    loss: float = math.inf
    seen: float = math.inf
    accuracy: float | None = None

    @classmethod
    def of(cls, step: int, values: Mapping[str, float]) -> "Measured":
        """Of the means that a measurement gives."""
        return cls(step, values["loss"], values["seen_loss"], values.get("accuracy"))

    @property
    def cost(self) -> float:
        """What is lowest in the best weights."""
        return self.loss if self.accuracy is None else 1 - self.accuracy

    def __str__(self) -> str:
        return f"{self.loss:.3g}" if self.accuracy is None else f"{self.accuracy:.1%}"


@dataclass
class Best:
    """What has been measured of a run.

    Args:
        lowest: the measurement of lowest cost, and `weights` its averaged weights.
        newest: the last one.
        measured_on: what the losses depend on beside the weights: others cannot be compared.
        told: whether over-fitting was said.
    """

    lowest: Measured = Measured()
    newest: Measured = Measured()
    measured_on: str = ""
    told: bool = False
    weights: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def offer(self, measured: Measured, weights: Mapping[str, Tensor]) -> None:
        """Take note of a measurement, and keep a copy of its weights if they are the best."""
        self.newest = measured
        if self.lowest.step and not measured.cost < self.lowest.cost:
            return
        self.lowest = measured
        for name, value in weights.items():
            if name in self.weights:
                self.weights[name].copy_(value)
            else:
                self.weights[name] = value.detach().clone()

    def overfits(self, every: int) -> bool:
        """Whether the cost has risen since some measurements, each `every` steps after the one
        before, while the loss on images that are learned from has fallen."""
        low, new = self.lowest, self.newest
        return (
            new.step - low.step >= _SINCE * every
            and new.cost > low.cost + _WORSE * abs(low.cost)
            and new.seen < low.seen
        )

    def facts(self) -> dict[str, str]:
        """All but the weights, for a checkpoint's header; nothing where nothing was measured."""
        if not self.lowest.step:
            return {}
        known = {key: value for key, value in vars(self).items() if key != "weights"}
        said = {k: asdict(v) if isinstance(v, Measured) else v for k, v in known.items()}
        return {"best": json.dumps(said, sort_keys=True)}

    @classmethod
    def of(cls, facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> "Best":
        """The inverse of `facts`, which JSON has made of what a header holds.

        Raises:
            KeyError, TypeError: it is none.
        """
        if not facts:
            return cls()
        lowest, newest = Measured(**facts["lowest"]), Measured(**facts["newest"])
        return cls(lowest, newest, str(facts["measured_on"]), bool(facts["told"]), dict(weights))


def overfitting(best: Best, images: int) -> str:
    """What to say where a run overfits: to how many images, 0 where they have no end."""
    if images:
        why = (
            f"its {images:,} images by heart; more images, flips (--data.flip) or fewer steps help"
        )
    else:
        why = "what is so of its training images alone; fewer steps or a smaller network help"
    low, new = best.lowest, best.newest
    what = "loss was lowest" if low.accuracy is None else "accuracy was highest"
    return (
        f"held-out {what} at step {low.step:,} ({low}) and is {new} now, while the loss on "
        f"training images falls: the network learns {why}"
    )


def published(best: Best) -> str:
    """Which weights a run leaves in the model folder."""
    low, new = best.lowest, best.newest
    what = "loss" if low.accuracy is None else "accuracy"
    since = "" if low.step == new.step else f"; {new} at step {new.step:,}"
    return f"published: step {low.step:,}, the best on held-out images ({what} {low}{since})"
