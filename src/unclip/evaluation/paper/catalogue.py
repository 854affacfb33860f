"""The paper's tables, in the order of their importance: a run that is cut has the first ones."""

from typing import Final

from unclip.evaluation.paper import (
    candidates,
    classes,
    components,
    diversity,
    guidance,
    importance,
    manipulations,
    priors,
    robustness,
)

STUDIES: Final = {
    one.letter: one
    for one in (
        importance.STUDY,
        diversity.STUDY,
        guidance.STUDY,
        priors.STUDY,
        classes.STUDY,
        candidates.STUDY,
        manipulations.STUDY,
        components.STUDY,
        robustness.STUDY,
    )
}
