"""How often 95 % intervals of metrics cover the truth, where it is known: Gaussian "features".

    python benchmarks/coverage.py [--draws 300] [-n 400]

Both sets are drawn anew each time, in 32 dimensions. The truth of a metric at this number of images
is its mean over all draws, and that of the extrapolated FID is known in closed form: the second
set's mean is moved by `shift` in every dimension, and its deviation is `scale`.
"""

import argparse

import torch

from unclip.evaluation.intervals import Estimate, wilson
from unclip.evaluation.metrics.frechet import extrapolated, fid
from unclip.evaluation.metrics.mmd import cmmd, kid
from unclip.evaluation.metrics.neighbours import prdc
from unclip.evaluation.metrics.spread import diversity

WIDTH = 32
CASES = ((0.0, 1.0), (0.1, 1.0), (0.3, 1.2))  # (shift, scale)


def measured(a: torch.Tensor, b: torch.Tensor) -> dict[str, Estimate]:
    """Every metric of one draw."""
    return {
        "FID": fid(a, b),
        "FID, extrapolated": extrapolated(a, b).limit,
        "KID": kid(a, b),
        "CMMD": cmmd(a, b),
        **prdc(a, b).estimates(),
        "diversity": diversity(b),
    }


def main() -> None:
    """Print a row for each metric and case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("-n", type=int, default=400, help="images of either set")
    options = parser.parse_args()
    print("| metric | shift, scale | truth | mean | intervals that cover the truth |")
    print("|---|---|---|---|---|")
    for shift, scale in CASES:
        generator = torch.Generator().manual_seed(0)
        draws = []
        for _ in range(options.draws):
            a, b = (torch.randn(options.n, WIDTH, generator=generator) for _ in range(2))
            draws.append(measured(a, b * scale + shift))
        known = {"FID, extrapolated": WIDTH * (shift**2 + (scale - 1) ** 2)}
        for name in draws[0]:
            found = [draw[name] for draw in draws]
            mean = sum(one.value for one in found) / len(found)
            truth = known.get(name, mean)
            hits = sum(one.low <= truth <= one.high for one in found)
            low, high = wilson(hits, len(found))
            print(
                f"| {name} | {shift}, {scale} | {truth:.3g} | {mean:.3g} | "
                f"{hits / len(found):.1%} ({low:.1%} to {high:.1%}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
