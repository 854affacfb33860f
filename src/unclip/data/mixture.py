"""Several sources as one, in fixed proportions: "mix:3 wds:shards/ + 1 my-images".

Parts are separated by " + " and may begin with a weight; without one it is 1. Which part gives
sample i is a function of i, and the part's own sample one of how many it has given before: nothing
is drawn, so that every window of samples has the proportions as exactly as whole numbers allow.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from unclip.checks import shown
from unclip.data.batches import Order
from unclip.data.captions import ENDLESS, Report
from unclip.data.registry import Request, format_of, open_source, parse
from unclip.data.sources import Sample, Source, Stream, unseen
from unclip.randomness import Draws

_LONGEST = 100_000  # samples after which the proportions come again
_BETWEEN = re.compile(r"\s\+(?=\s)")


def open_format(request: Request) -> "Mixture":
    """See `registry.open_source`. A part that holds nothing out is not in the split that is."""
    parts: list[Source] = []
    weights: list[Fraction] = []
    for weight, name in parts_of(request.place):
        holds_out = format_of(name).holds_out
        if request.split == "held-out" and holds_out == "nothing":
            continue
        source = open_source(
            name,
            size=request.size,
            seed=request.seed,
            split=request.split,
            held_out=request.held_out if holds_out == "fraction" else 0.0,
            options=request.all_options,
            crop=request.crop,
            template=request.template,
        )
        if isinstance(source, Stream):
            raise ValueError(f"{name} is read in order only, which a mixture cannot do")
        parts.append(source)
        weights.append(weight)
    if not parts:
        raise ValueError(f"no part of mix:{request.place} holds images out")
    return Mixture(parts, weights, request.seed or 0)


def parts_of(place: str) -> list[tuple[Fraction, str]]:
    """The weights and names that a place says.

    Raises:
        ValueError: a part without a name, a weight that is none, a mixture in a mixture.
    """
    found = []
    for part in _BETWEEN.split(f" {place} "):
        first, _, rest = part.strip().partition(" ")
        weight = _weight(first)
        name = part.strip() if weight is None else rest.strip()
        if not name:
            raise ValueError(
                f"mix:{place} has a part without a name; write such as 'mix:3 my-images + 1 emoji'"
            )
        if parse(name)[0] == "mix":
            raise ValueError(f"mix:{place} has a mixture in it; write all parts side by side")
        found.append((Fraction(1) if weight is None else weight, name))
    return found


def _weight(word: str) -> Fraction | None:
    """A number greater than 0; None for what is no number."""
    try:
        weight = Fraction(word)
    except (ValueError, ZeroDivisionError):
        return None
    if weight <= 0:
        raise ValueError(f"the weight {shown(word)} of a mixture must be greater than 0")
    return weight


class Mixture:
    """Sample i is that of a part, each in its own shuffled order, again and again without end.

    Args:
        parts: what is mixed.
        weights: of each, in any unit.
        seed: of the parts' orders.

    Raises:
        ValueError: proportions that take more than `_LONGEST` samples to hold.
    """

    endless = True  # a part may have epochs; the whole has none

    def __init__(self, parts: Sequence[Source], weights: Sequence[Fraction], seed: int) -> None:
        self.parts, self.weights, self.seed = list(parts), list(weights), seed
        self.shares = _whole(weights)
        self.orders = [
            Order.of(part, Draws(seed, number).state) for number, part in enumerate(parts)
        ]
        # Part k's j-th sample of a turn stands at (j + 1/2) / share of it: evenly spread.
        at = np.concatenate([(np.arange(share) + 0.5) / share for share in self.shares])
        part = np.repeat(np.arange(len(self.shares)), self.shares)
        turn = np.argsort(at, kind="stable")
        self._part = part[turn].astype(np.int32)  # (T,): whose each sample of a turn is
        self._rank = np.concatenate([np.arange(share) for share in self.shares])[turn]  # (T,)

    def __len__(self) -> int:
        return ENDLESS

    def find(self, index: int) -> tuple[int, int]:
        """The number of the part, and of the sample within it."""
        if not 0 <= index < ENDLESS:
            raise IndexError(index)
        turn, place = divmod(index, len(self._part))
        part = int(self._part[place])
        return part, self.orders[part](turn * self.shares[part] + int(self._rank[place]))

    def __getitem__(self, index: int) -> Sample:
        part, number = self.find(index)
        return self.parts[part][number]

    def caption(self, index: int) -> str:
        """The caption of a sample whose image can be read, without reading it."""
        part, number = self.find(index)
        return self.parts[part].caption(number)

    def captions(self) -> Iterator[str]:
        """Those of samples 0, 1, 2, …"""
        return map(self.caption, range(ENDLESS))

    def unseen(self) -> "Mixture | None":
        """See `sources.HoldsOut`: in the same proportions, of the parts that hold anything out."""
        kept = [
            (other, weight)
            for part, weight in zip(self.parts, self.weights, strict=True)
            if (other := unseen(part)) is not None and not isinstance(other, Stream)
        ]
        if not kept:
            return None
        return Mixture([other for other, _ in kept], [weight for _, weight in kept], self.seed)

    def check(self, decode: bool = False) -> Report:
        """The parts' reports, each with its share."""
        total = sum(self.shares)
        reports = [
            replace(report, source=f"{100 * share / total:.3g} %: {report.source}")
            for share, report in zip(
                self.shares, (part.check(decode) for part in self.parts), strict=True
            )
        ]
        return Report(
            f"a mixture of {len(reports)}",
            images=sum(report.images for report in reports),
            usable=sum(report.usable for report in reports),
            captions=sum(report.captions for report in reports),
            held_out=sum(report.held_out for report in reports),
            parts=reports,
        )

    def fingerprint(self) -> str:
        """The parts' and their shares."""
        digest = hashlib.blake2b(f"mixture {self.seed}".encode(), digest_size=16)
        for share, part in zip(self.shares, self.parts, strict=True):
            digest.update(f"\n{share} {part.fingerprint()}".encode())
        return digest.hexdigest()


def _whole(weights: Sequence[Fraction]) -> list[int]:
    """The smallest whole numbers of the same proportions."""
    common = math.lcm(*(weight.denominator for weight in weights))
    numbers = [int(weight * common) for weight in weights]
    divisor = math.gcd(*numbers)
    shares = [number // divisor for number in numbers]
    if sum(shares) > _LONGEST:
        raise ValueError(
            f"the weights of the mixture need {sum(shares):,} samples to be in proportion; round "
            f"them, so that {_LONGEST:,} are enough"
        )
    return shares
