"""Every metric refuses at its door what is no matrix of features, in one sentence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unclip.evaluation.metrics.aesthetic import Probe, fit
from unclip.evaluation.metrics.frechet import extrapolated, fid
from unclip.evaluation.metrics.matrices import directions
from unclip.evaluation.metrics.mmd import cmmd, kid
from unclip.evaluation.metrics.neighbours import prdc
from unclip.evaluation.metrics.retrieval import classify, preferred, ranks, retrieval
from unclip.evaluation.metrics.spread import clip_score, diversity

GOOD = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
NAN = GOOD.clone()
NAN[3, 1] = torch.nan
BAD = {
    "nan": NAN,
    "int": GOOD.long(),
    "bool": GOOD > 0,
    "complex": GOOD.to(torch.complex64),
    "list": GOOD.tolist(),
    "none": None,
    "numpy": GOOD.numpy(),
    "wide": GOOD[:, :0],
    "huge": GOOD.double() * 1e200,
    "sparse": GOOD.to_sparse(),
    "meta": GOOD.to("meta"),
    "row": GOOD[0],
}
METRICS: dict[str, Callable[[Any], Any]] = {
    "fid": lambda x: fid(GOOD, x),
    "extrapolated": lambda x: extrapolated(x, GOOD),
    "kid": lambda x: kid(GOOD, x),
    "cmmd": lambda x: cmmd(x, GOOD),
    "prdc": lambda x: prdc(GOOD, x),
    "ranks": lambda x: ranks(x, GOOD),
    "retrieval": lambda x: retrieval(GOOD, x),
    "classify": lambda x: classify(x, GOOD[:3], [0] * 16),
    "classes": lambda x: classify(GOOD, x, [0] * 16),
    "preferred": lambda x: preferred(GOOD, GOOD, x),
    "diversity": diversity,
    "clip_score": lambda x: clip_score(x, GOOD),
    "fit": lambda x: fit(x, torch.arange(16.0)),
    "probe": Probe(torch.ones(4).double(), 0.0),
}


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_no_matrix_of_features_is_refused(metric: str) -> None:
    for bad in BAD.values():
        with pytest.raises(ValueError, match=r"finite|floats|must be|dense|beyond"):
            METRICS[metric](bad)


def test_numbers_and_ratings_are_checked_too() -> None:
    for wrong in (2.5, "3"):
        with pytest.raises(ValueError, match="among"):
            retrieval(GOOD, GOOD, among=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k is -1"):
        retrieval(GOOD, GOOD, ks=(-1,))
    with pytest.raises(ValueError, match="groups are names or numbers"):
        diversity(GOOD, [[1]] * 16)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="the ratings must be"):
        fit(GOOD, [1.0] * 16)  # type: ignore[arg-type]
    for seed in (1.5, None):
        with pytest.raises(ValueError, match="seed"):
            fit(GOOD, torch.arange(16.0), seed=seed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="all 0"):
        fit(torch.zeros(16, 4), torch.arange(16.0))


@pytest.mark.parametrize("scale", [1e-20, 1e-200, 1e9])
def test_directions_do_not_depend_on_length(scale: float) -> None:
    assert torch.allclose(directions(GOOD.double() * scale), directions(GOOD), atol=1e-12)
    assert diversity(GOOD.double() * scale).value == pytest.approx(diversity(GOOD).value)
