"""(h) Best of several z_i (section 2.2): how many candidates the prior draws for an image."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from unclip.evaluation.intervals import mean
from unclip.evaluation.paper.lab import Ask, Lab
from unclip.evaluation.paper.priors import settings as of_prior
from unclip.evaluation.paper.study import Cell, Row, Study, apart, having, number, said

COUNTS: Final = (1, 2, 4)


def cells(lab: Lab) -> list[Cell]:
    """Each count, of each prior."""
    found = []
    for prior in lab.models.bundled.priors:
        for count in COUNTS:
            settings = of_prior(lab, prior).with_values({"prior_num_candidates": count})
            ask = Ask(lab.captions(), settings=settings)
            setting = {"prior": prior, "candidates": count}
            found.append(Cell(setting, partial(_measure, lab, ask), [ask]))
    return found


def _measure(lab: Lab, ask: Ask) -> dict[str, Any]:
    z_i = lab.embedded(ask.captions, ask.settings, ask.stream)
    z_t = lab.text_embeddings(ask.captions)
    return {
        "z_i · z_t": mean((z_i * z_t).sum(dim=1)),
        **lab.quality(lab.draw(ask), lab.scenes()),
    }


def verdict(rows: Sequence[Row]) -> str:
    """Two against one, and four against two."""
    told = []
    for prior in dict.fromkeys(row["setting"]["prior"] for row in rows):
        by_count = {row["setting"]["candidates"]: row for row in having(rows, prior=prior)}
        if not {1, 2, 4} <= by_count.keys():
            continue
        one, two, four = (by_count[count] for count in COUNTS)
        gain = number(two, "exact") - number(one, "exact")
        told.append(
            f"With the {prior} prior {said(one, 'exact', True)} of scenes are exactly right with "
            f"one candidate, {said(two, 'exact', True)} with two and {said(four, 'exact', True)} "
            f"with four; recall in the judge's features is {said(one, 'judge recall')} with one "
            f"and {said(four, 'judge recall')} with four: "
            + (
                "the second candidate helps, as in the paper."
                if gain > 0 and apart(one, two, "exact")
                else "what a second one changes is within the intervals here: the candidates of a "
                "caption that says nearly all are close to each other."
            )
        )
    return " ".join(told) or "Not measured yet."


STUDY: Final = Study(
    "h",
    "candidates",
    "Best of 1, 2 and 4 candidates",
    "The prior draws so many z_i for an image, and keeps the one with the highest z_i · z_t.",
    "Section 2.2: two are drawn and the one with the higher dot product is kept, which improves "
    "quality; nothing is said of more.",
    ("exact", "binding", "z_i · z_t", "clip score", "clip fid", "clip cmmd", "judge fid",
     "judge recall"),
    cells,
    verdict,
)  # fmt: skip
