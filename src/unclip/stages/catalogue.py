"""The stages that there are: a new one is a row here.

Nothing heavy is imported here, so that help and flags can be made of it: a row says where a stage's
spec is, and what is asked of it is looked up there.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unclip.lazy import imported

if TYPE_CHECKING:
    from unclip.stages.prior import Prior
    from unclip.stages.spec import StageSpec


@dataclass(frozen=True)
class Row:
    """Where a stage is.

    Attributes:
        spec: its `StageSpec`, as "module:name".
        prior: what a request calls it, if it draws embeddings.
        stage: the class of a prior, as "module:name".
    """

    spec: str
    prior: str = ""
    stage: str = ""


class Stages(Mapping[str, "StageSpec[Any]"]):
    """Specs by the names that `unclip train` has for them, imported when they are asked for."""

    def __init__(self, rows: MutableMapping[str, Row]) -> None:
        self.rows = rows

    def __getitem__(self, name: str) -> "StageSpec[Any]":
        spec: StageSpec[Any] = imported(self.rows[name].spec)
        return spec

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


STAGES = Stages(
    {
        "clip": Row("unclip.stages.clip:SPEC"),
        "prior": Row(
            "unclip.stages.diffusion_prior:SPEC",
            "diffusion",
            "unclip.stages.diffusion_prior:PriorStage",
        ),
        "ar-prior": Row(
            "unclip.stages.autoregressive_prior:SPEC",
            "autoregressive",
            "unclip.stages.autoregressive_prior:AutoregressivePriorStage",
        ),
        "decoder": Row("unclip.stages.decoder.spec:SPEC"),
        "distilled-decoder": Row("unclip.stages.students.guidance:SPEC"),
        "few-step-decoder": Row("unclip.stages.students.few_steps:SPEC"),
        "upsampler": Row("unclip.stages.upsampler:SPEC"),
        "upsampler-1024": Row("unclip.stages.upsampler:SECOND_SPEC"),
    }
)


def prior_kinds() -> tuple[str, ...]:
    """What requests call the priors; the first that a model has is the one it draws with, where
    neither request nor model says another."""
    return tuple(row.prior for row in STAGES.rows.values() if row.prior)


def priors() -> dict[str, "type[Prior]"]:
    """The classes of the priors, by what requests call them."""
    return {row.prior: imported(row.stage) for row in STAGES.rows.values() if row.prior}
