"""How often the intervals of a ranking by people cover the truth, where the truth is known.

    python benchmarks/rankings.py

Simulated people answer questions about models whose strengths are drawn; of the intervals that
`evaluation/people/preferences.py` gives, 95 of 100 should have the true strength inside. "Not sure"
is a sixth of the answers where two models are alike, and rarer where they are not.
"""

import argparse
import math
from itertools import combinations

import numpy as np

from unclip.evaluation.intervals import wilson
from unclip.evaluation.people.preferences import rank


def covered(models: int, questions: int, spread: float, seed: int) -> list[bool]:
    """Whether each model's interval has its strength inside, in one simulated survey."""
    generator = np.random.default_rng(seed)
    names = [f"{number}" for number in range(models)]
    truth = generator.normal(0, spread, models)
    truth -= truth.mean()
    scores = {}
    for i, j in combinations(range(models), 2):
        chance = 1 / (1 + math.exp(truth[j] - truth[i]))
        unsure = chance * (1 - chance) * 2 / 3
        drawn = generator.choice(
            [1.0, 0.5, 0.0], questions, p=[chance - unsure / 2, unsure, 1 - chance - unsure / 2]
        )
        scores[names[i], names[j]] = drawn
    found = {one.model: one.strength for one in rank(scores, names, seed, 400)}
    return [
        found[name].low <= value <= found[name].high
        for name, value in zip(names, truth, strict=True)
    ]


def main() -> None:
    """Print a row for each number of models, questions and spread of strengths."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--surveys", type=int, default=1000, help="simulated, for each row")
    surveys = parser.parse_args().surveys
    print("models  questions a pair  spread  intervals that cover the truth")
    for models in (3, 5):
        for questions in (10, 30, 100):
            for spread in (0.5, 1.0):
                hits = [
                    hit
                    for seed in range(surveys)
                    for hit in covered(models, questions, spread, seed)
                ]
                low, high = wilson(sum(hits), len(hits))
                print(
                    f"{models:>6}  {questions:>16}  {spread:>6}  "
                    f"{np.mean(hits):.1%} ({low:.1%} to {high:.1%})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
