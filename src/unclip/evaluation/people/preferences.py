"""From answers to numbers: how often one model is preferred to another, and a ranking of several.

"Not sure" is half a preference for either. Questions count, not answers: where several people have
answered one, it counts once, with the mean of their answers, since what they saw is the same.

The ranking is Bradley and Terry's (1952): P(i is preferred to j) = σ(θ_i - θ_j) with Σ θ = 0, by
maximum likelihood. Its intervals are θ ± 1.96 standard errors of the bootstrap over questions,
which cover the truth more evenly than the bootstrap's percentiles where questions are few
(benchmarks/rankings.py). A quarter of a preference is added to either side of each two models that
were compared, so that one that always wins stays finite.

Shapes: M models, P pairs of them, B resamples.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from unclip.evaluation.intervals import RESAMPLES, Estimate, wilson
from unclip.evaluation.people.answers import Answer
from unclip.evaluation.people.questions import KINDS

Floats = npt.NDArray[np.float64]
Pair = tuple[str, str]
ADDED: Final = 0.25
"""Preferences that are added to either side of two models that were compared."""
_ROUNDS, _CLOSE = 100, 1e-10  # of Newton's method


@dataclass(frozen=True)
class Preference:
    """What was answered about two models.

    Attributes:
        models: the two.
        first, unsure, second: answers for either, and for neither.
        questions: different ones that were answered.
        rate: of the first model being preferred, with Wilson's interval; see above.
    """

    models: Pair
    first: int
    unsure: int
    second: int
    questions: int
    rate: Estimate

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "models": list(self.models), "rate": self.rate.to_dict()}


@dataclass(frozen=True)
class Ranked:
    """A model in the ranking.

    Attributes:
        strength: θ; a difference of 1 is a preference of 73 %.
    """

    model: str
    strength: Estimate

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model, "strength": self.strength.to_dict()}


@dataclass(frozen=True)
class Summary:
    """What people said, for each kind of question.

    Attributes:
        preferences: of each two models that were compared.
        rankings: strongest first; of three models or more, if the answers compare all of them.
    """

    raters: int
    answers: int
    preferences: dict[str, list[Preference]]
    rankings: dict[str, list[Ranked]]

    def to_dict(self) -> dict[str, Any]:
        return {
            "raters": self.raters,
            "answers": self.answers,
            "preferences": {
                kind: [one.to_dict() for one in rows] for kind, rows in self.preferences.items()
            },
            "rankings": {
                kind: [one.to_dict() for one in rows] for kind, rows in self.rankings.items()
            },
        }


def summarise(answers: Sequence[Answer], models: Sequence[str], seed: int = 0) -> Summary:
    """The numbers of the answers that count, see `Answers.read`.

    Args:
        models: all that are compared, in the order of tables.
        seed: of the bootstrap.
    """
    preferences: dict[str, list[Preference]] = {}
    rankings: dict[str, list[Ranked]] = {}
    for kind in KINDS:
        given = [one for one in answers if one.kind == kind]
        scores = scores_of(given, models)
        if not scores:
            continue
        preferences[kind] = [_preference(pair, rows, given) for pair, rows in scores.items()]
        if len(models) > 2 and _connected(scores, models):
            rankings[kind] = rank(scores, models, seed)
    raters = len({one.rater for one in answers})
    return Summary(raters, len(answers), preferences, rankings)


def scores_of(answers: Sequence[Answer], models: Sequence[str]) -> dict[Pair, Floats]:
    """Each two models that were compared → for each question the mean score of the first in
    [0, 1]."""
    scores: dict[Pair, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in answers:
        scores[one.model_a, one.model_b][one.question].append(one.score)
    for first, second in combinations(models, 2):  # as tables name them, not as they were asked
        for question, given in scores.pop((second, first), {}).items():
            scores[first, second][question] += [1 - score for score in given]
    return {
        pair: np.array([np.mean(given) for given in scores[pair].values()])
        for pair in combinations(models, 2)
        if pair in scores
    }


def _preference(pair: Pair, scores: Floats, answers: Sequence[Answer]) -> Preference:
    mine = [one.preferred for one in answers if {one.model_a, one.model_b} == set(pair)]
    low, high = wilson(float(scores.sum()), len(scores))
    rate = Estimate(float(scores.mean()), low, high)
    return Preference(
        pair, mine.count(pair[0]), mine.count(""), mine.count(pair[1]), len(scores), rate
    )


def rank(
    scores: Mapping[Pair, Floats], models: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> list[Ranked]:
    """Bradley and Terry's ranking, strongest first.

    Args:
        scores: see `scores_of`; they must compare all models, if only through others.
    """
    generator = np.random.default_rng(seed % 2**63)
    strengths = bradley_terry(_wins(scores, models, lambda rows: rows.sum()))

    def resampled(rows: Floats) -> Floats:
        """The sums (B,) of as many questions, drawn with replacement."""
        weights = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), resamples)
        return np.asarray(weights @ rows)

    errors = bradley_terry(_wins(scores, models, resampled)).std(axis=0, ddof=1)
    ranked = [
        Ranked(model, Estimate.of(float(strength), float(error)))
        for model, strength, error in zip(models, strengths, errors, strict=True)
    ]
    return sorted(ranked, key=lambda one: -one.strength.value)


def _wins(scores: Mapping[Pair, Floats], models: Sequence[str], total: Any) -> Floats:
    """(…, M, M): preferences of the row's model to the column's, as `total` counts a pair's."""
    numbers = {model: number for number, model in enumerate(models)}
    found: dict[tuple[int, int], Floats] = {}
    for (one, other), rows in scores.items():
        i, j = numbers[one], numbers[other]
        found[i, j] = np.asarray(total(rows))
        found[j, i] = len(rows) - found[i, j]
    wins = np.zeros((*next(iter(found.values())).shape, len(models), len(models)))
    for (i, j), counts in found.items():
        wins[..., i, j] = counts
    return wins


def bradley_terry(wins: Floats, added: float = ADDED) -> Floats:
    """θ (…, M) with Σ θ = 0 from preferences (…, M, M), by Newton's method, many tables at once.

    Args:
        wins: how often the row's model was preferred to the column's; halves for "not sure".
        added: to either side of two models that were compared.

    Raises:
        ValueError: not all models are compared, so that nothing says how they stand.
    """
    wins = np.asarray(wins, np.float64)
    count = wins.shape[-1]
    compared = (wins + np.swapaxes(wins, -1, -2)) > 0
    wins = wins + added * compared
    reach = np.linalg.matrix_power(np.eye(count) + (wins > 0), count)
    if not (reach > 0).all():
        raise ValueError("some models were never compared with the others, not even through others")
    games = wins + np.swapaxes(wins, -1, -2)
    theta = np.zeros(wins.shape[:-1])
    for _ in range(_ROUNDS):
        chance = 1 / (1 + np.exp(theta[..., None, :] - theta[..., :, None]))
        gradient = (wins - games * chance).sum(axis=-1)
        weight = games * chance * (1 - chance)
        # - Hessian of the log-likelihood; the ones fix the sum, which it does not depend on.
        curved = np.eye(count) * weight.sum(axis=-1)[..., None] - weight + 1 / count
        step = np.linalg.solve(curved, gradient[..., None])[..., 0].clip(-1, 1)
        theta += step
        if np.abs(step).max() < _CLOSE:
            break
    return np.asarray(theta - theta.mean(axis=-1, keepdims=True))


def _connected(scores: Mapping[Pair, Floats], models: Sequence[str]) -> bool:
    """Whether every model was compared with every other, if only through others."""
    reached = {models[0]}
    for _ in models:
        reached |= {model for pair in scores if reached & set(pair) for model in pair}
    return reached == set(models)
