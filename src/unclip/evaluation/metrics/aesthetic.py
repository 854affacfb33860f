"""Aesthetic score: a linear probe on CLIP's image embeddings, trained on people's ratings.

The paper judges aesthetic quality so, with a probe fitted to AVA's mean ratings (section 5.4,
appendix A, after Crowson). A probe belongs to one CLIP: its width, and where it was fitted here
the extractor's hash, say to which. It is fitted by ridge regression, whose penalty is chosen by
leaving each image out in closed form, and is worth what R² on held-out images says.

Published probes of this shape open from safetensors: LAION's ("weight", "bias"), Crowson's
("linear.weight", on embeddings of the length √D), and those in several layers without a
nonlinearity ("layers.0.weight", …), which together are one linear map.

Shapes: N images, D embedding width.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor

from unclip.checks import many, of_kind, real_number, shown, whole_number
from unclip.evaluation.features.extractor import Extractor
from unclip.evaluation.intervals import Estimate, bootstrap, mean
from unclip.evaluation.metrics.matrices import directions
from unclip.files import read_facts, read_safetensors, write_safetensors

LEAST: Final = 10
"""Rated images that a probe is fitted to, at least."""
_PENALTIES: Final = [10.0**power for power in range(-6, 5)]  # times the mean variance
_NAMES: Final = re.compile(
    r"(?:|.*?\.)(?:layers\.(?P<layer>\d+)\.|(?P<single>linear\.|predictor\.)?)(?P<kind>weight|bias)"
)


@dataclass(frozen=True)
class Probe:
    """rating = weight · z_i / |z_i| + bias.

    Attributes:
        weight: (D,) in fp64.
        extractor: hash of the one whose features it was fitted to; "" if that is not known.
        facts: how it was fitted, for reports.
    """

    weight: Tensor
    bias: float
    extractor: str = ""
    facts: Mapping[str, str] | None = None

    def __call__(self, z_i: Tensor) -> Tensor:
        """Ratings (N,) in fp64 of embeddings (N, D).

        Raises:
            ValueError: see `directions`; embeddings of another width.
        """
        rows = directions(z_i, "the embeddings", least=1)
        if rows.shape[1] != len(self.weight):
            raise ValueError(
                f"this probe rates embeddings of width {len(self.weight)}, not {rows.shape[1]}: it "
                "belongs to another CLIP"
            )
        return rows @ self.weight.to(rows.device) + self.bias

    def score(self, z_i: Tensor) -> Estimate:
        """The mean rating of embeddings (N, D)."""
        return mean(self(z_i))

    def check_fits(self, extractor: Extractor) -> None:
        """Refuse features of another network than it was fitted to.

        Raises:
            ValueError: the hash or, where none is known, the width differs.
        """
        if self.extractor and self.extractor != extractor.hash:
            raise ValueError(
                f"this probe was fitted to the extractor {self.extractor}, not to {extractor.name} "
                f"({extractor.hash}); fit one to that"
            )
        if len(self.weight) != extractor.dimensions:
            raise ValueError(
                f"this probe rates embeddings of width {len(self.weight)}, and {extractor.name} "
                f"gives {extractor.dimensions}"
            )

    def save(self, path: Path) -> None:
        """As one safetensors file, whole or not at all."""
        facts = {**(self.facts or {}), "extractor": self.extractor}
        tensors = {
            "weight": self.weight[None],
            "bias": torch.tensor([self.bias], dtype=torch.float64),
        }
        write_safetensors(path, tensors, facts)

    @classmethod
    def open(cls, path: Path) -> Self:
        """One that was saved, or a published one in safetensors.

        Raises:
            ValueError: it is no safetensors file, or not of this shape.
        """
        if path.suffix in (".pth", ".pt", ".ckpt", ".bin"):
            raise ValueError(
                f"{path} is a pickle, which can run code when opened and is never loaded; convert "
                "it to safetensors where you trust it"
            )
        weight, bias = _linear(path, read_safetensors(path))
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise ValueError(f"{path} has values that are not finite")
        facts = read_facts(path)
        return cls(weight, float(bias), facts.get("extractor", ""), facts)


@dataclass(frozen=True)
class Fit:
    """A probe, and what it is worth.

    Attributes:
        r2: of held-out images: 1 is right each time, 0 no better than their mean.
        fitted, held_out: images that it was fitted to, and measured on.
        penalty: of ridge regression, in the embeddings' mean variance.
    """

    probe: Probe
    r2: Estimate
    fitted: int
    held_out: int
    penalty: float

    def to_dict(self) -> dict[str, Any]:
        return {"r2": self.r2.to_dict(), "fitted": self.fitted, "held_out": self.held_out,
                "penalty": self.penalty}  # fmt: skip


def fit(
    z_i: Tensor, ratings: Tensor, extractor: str = "", held_out: float = 0.2, seed: int = 0
) -> Fit:
    """A probe of embeddings (N, D) for their ratings (N,), in whatever unit these are.

    Args:
        extractor: hash of the one that gave the embeddings.
        held_out: fraction of the images that it is measured on and does not see.
        seed: of which those are.

    Raises:
        ValueError: see `directions`; ratings that do not pair up, are not finite or all equal;
            fewer than `LEAST` images to fit to.
    """
    real_number(held_out, "held_out", 0.01, 0.9)
    whole_number(seed, "seed", -(2**63), 2**64 - 1)
    rows = directions(z_i, "the embeddings")
    of_kind(ratings, Tensor, "the ratings", "a tensor (N,)")
    ratings = ratings.double().to(rows.device)
    if ratings.shape != rows.shape[:1] or not ratings.isfinite().all():
        raise ValueError(
            f"{many(len(rows), 'embeddings')} need as many finite ratings, not "
            f"{tuple(ratings.shape)}"
        )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    cut = max(2, round(held_out * len(rows)))
    test, train = order[:cut], order[cut:]
    if len(train) < LEAST:
        raise ValueError(
            f"{many(len(rows), 'rated images')} are too few: a probe is fitted to {LEAST} or more, "
            f"beside the {cut} that it is measured on"
        )
    if float(ratings[train].std()) == 0 or float(ratings[test].std()) == 0:
        raise ValueError("all ratings are equal: there is nothing to learn from them")
    weight, bias, penalty = _ridge(rows[train], ratings[train])
    errors = ratings[test] - (rows[test] @ weight + bias)
    truth = ratings[test]

    def r2(numbers: Tensor) -> float:
        variance = float((truth[numbers] - truth[numbers].mean()).square().sum())
        return 1 - float(errors[numbers].square().sum()) / variance if variance else float("nan")

    found = bootstrap(r2, cut)
    facts = {"r2": str(found), "fitted": str(len(train)), "held_out": str(cut)}
    probe = Probe(weight.cpu(), bias, extractor, facts)
    return Fit(probe, found, len(train), cut, penalty)


def _ridge(x: Tensor, y: Tensor) -> tuple[Tensor, float, float]:
    """Weight (D,), bias and penalty that predict each row best from the others."""
    centre, middle = x.mean(dim=0), y.mean()
    x, y = x - centre, y - middle
    values, vectors = torch.linalg.eigh(x.T @ x)
    values = values.clamp(min=0)
    along = x @ vectors  # (N, D)
    pulled = along.T @ y
    unit = float(values.sum()) / len(values)
    best: tuple[float, Tensor, float] | None = None
    for penalty in _PENALTIES:
        shrunk = 1 / (values + penalty * unit)
        own = (along.square() * shrunk).sum(dim=1) + 1 / len(x)  # of each row in its own prediction
        left_out = (y - along @ (shrunk * pulled)) / (1 - own).clamp(min=1e-6)
        loss = float(left_out.square().mean())
        if best is None or loss < best[0]:
            best = loss, vectors @ (shrunk * pulled), penalty
    assert best is not None
    _, weight, penalty = best
    return weight, float(middle - weight @ centre), penalty


def _linear(path: Path, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight (D,) and bias () of a probe's tensors, for embeddings of unit length."""
    layers: dict[int, dict[str, Tensor]] = {}
    stretched = False
    for key, tensor in tensors.items():
        found = _NAMES.fullmatch(key)
        if found is None:
            raise ValueError(f"{path} has a tensor {shown(key)} that no linear probe has")
        layers.setdefault(int(found["layer"] or 0), {})[found["kind"]] = tensor.double()
        stretched |= found["single"] == "linear."
    weight = bias = None
    for number, layer in sorted(layers.items()):
        w, b = layer.get("weight"), layer.get("bias")
        if w is None or b is None or w.ndim != 2 or b.shape != w.shape[:1]:
            raise ValueError(f"{path}: layer {number} is not a weight (K, D) with its bias (K,)")
        if weight is None or bias is None:
            weight, bias = w, b
        elif w.shape[1] != len(weight):
            raise ValueError(f"{path}: the shapes of its layers do not fit each other")
        else:
            weight, bias = w @ weight, w @ bias + b
    if weight is None or bias is None or len(weight) != 1:
        raise ValueError(f"{path} does not end in one number, a rating")
    return weight[0] * (weight.shape[1] ** 0.5 if stretched else 1.0), bias[0]
