"""Preferences and rankings: against choix, and against simulated truth."""

import math

import choix
import numpy as np
import pytest

from unclip.evaluation.people.answers import Answer
from unclip.evaluation.people.preferences import bradley_terry, rank, scores_of, summarise

MODELS = ("a", "b", "c")


def answer(question: str, models: tuple[str, str], preferred: str, rater: str = "") -> Answer:
    return Answer(0.0, rater, question, "caption", "x", *models, False, "first", preferred, 1.0)


def test_strengths_are_those_of_choix() -> None:
    # The first two were never compared directly.
    wins = np.array([[0.0, 0, 7, 3], [0, 0, 2, 9], [4, 8, 0, 5], [6, 1, 5, 0]])
    games = [(i, j) for i in range(4) for j in range(4) for _ in range(int(wins[i, j]))]
    expected = choix.opt_pairwise(4, games, alpha=0, method="Newton-CG", tol=1e-10)
    found = bradley_terry(wins, added=0)
    assert found == pytest.approx(expected - expected.mean(), abs=1e-5)
    assert abs(found.sum()) < 1e-12


def test_two_models_have_the_log_odds() -> None:
    theta = bradley_terry(np.array([[0, 30], [10, 0]]), added=0)
    assert theta[0] - theta[1] == pytest.approx(math.log(3))


def test_a_model_that_always_wins_stays_finite() -> None:
    theta = bradley_terry(np.array([[0.0, 9], [0, 0]]))
    assert theta[0] - theta[1] == pytest.approx(math.log(9.25 / 0.25))


def test_models_that_were_never_compared_cannot_be_ranked() -> None:
    with pytest.raises(ValueError, match="never compared"):
        bradley_terry(np.array([[0.0, 1, 0], [0, 0, 0], [0, 0, 0]]))
    answers = [answer("1", ("a", "b"), "a")]
    assert summarise(answers, MODELS).rankings == {}


def test_a_question_counts_once_whoever_answers_it() -> None:
    answers = [
        answer("1", ("a", "b"), "a"),
        answer("1", ("a", "b"), "", "anna"),
        answer("2", ("a", "b"), "b"),
    ]
    assert list(scores_of(answers, MODELS)["a", "b"]) == [0.75, 0.0]
    found = summarise(answers, ("a", "b"))
    one = found.preferences["caption"][0]
    assert (one.first, one.unsure, one.second, one.questions) == (1, 1, 1, 2)
    assert one.rate.value == pytest.approx(0.375)
    assert one.rate.low < 0.375 < one.rate.high
    assert (found.raters, found.answers, found.rankings) == (2, 3, {})
    assert found.to_dict()["preferences"]["caption"][0]["models"] == ["a", "b"]


def test_intervals_cover_simulated_truth() -> None:
    """A short run of benchmarks/rankings.py, which says how often."""
    truth = np.array([0.6, 0.0, -0.6])
    generator = np.random.default_rng(1)
    covered = []
    for _ in range(120):
        scores = {}
        for i, j in ((0, 1), (0, 2), (1, 2)):
            chance = 1 / (1 + math.exp(truth[j] - truth[i]))
            scores[MODELS[i], MODELS[j]] = generator.binomial(1, chance, 40).astype(float)
        found = {one.model: one.strength for one in rank(scores, MODELS, resamples=200)}
        covered += [
            found[model].low <= value <= found[model].high
            for model, value in zip(MODELS, truth, strict=True)
        ]
    assert 0.91 < np.mean(covered) < 0.985


def test_the_ranking_is_by_strength_and_the_same_again() -> None:
    scores = {
        ("a", "b"): np.array([0.0] * 8 + [1.0] * 2),
        ("a", "c"): np.array([0.0] * 5 + [0.5] * 5),
        ("b", "c"): np.array([1.0] * 6 + [0.0] * 4),
    }
    found = rank(scores, MODELS, seed=3)
    assert [one.model for one in found] == ["b", "c", "a"]
    assert found == rank(scores, MODELS, seed=3)
    assert all(one.strength.low < one.strength.value < one.strength.high for one in found)
