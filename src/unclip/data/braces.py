"""Brace expansion as shells do it: "{000..099}.tar" and "{train,val}.tar" name many files."""

import re
from collections.abc import Iterator
from itertools import product

from unclip.checks import shown

MOST = 1_000_000
"""Names that one expression may stand for."""
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


def expand(pattern: str) -> list[str]:
    """All names, in order; the pattern itself where it has no braces.

    Ranges of numbers have as many digits as their longer end, where either begins with a zero.

    Raises:
        ValueError: braces that do not close, hold neither a range nor a list, or stand for more
            than `MOST` names.
    """
    parts: list[list[str]] = []
    total = 1
    for text, inner in _parts(pattern):
        parts.append([text])
        if inner is None:
            continue
        names = _alternatives(inner, pattern)
        total *= len(names)
        if total > MOST:
            raise ValueError(f"{shown(pattern)} stands for more than {MOST:,} names")
        parts.append(names)
    return ["".join(chosen) for chosen in product(*parts)]


def _parts(pattern: str) -> Iterator[tuple[str, str | None]]:
    """Text, and what the braces after it hold; None after the last."""
    rest = pattern
    while rest:
        text, brace, after = rest.partition("{")
        if "}" in text:
            raise ValueError(f"{shown(pattern)} closes a brace that was never opened")
        if not brace:
            yield text, None
            return
        inner, close, rest = after.partition("}")
        if not close:
            raise ValueError(f"{shown(pattern)} opens a brace that is never closed")
        if "{" in inner:
            raise ValueError(f"{shown(pattern)} has braces within braces; write them out")
        yield text, inner


def _alternatives(inner: str, pattern: str) -> list[str]:
    if match := _RANGE.fullmatch(inner):
        first, last = match.groups()
        low, high = int(first), int(last)
        if abs(high - low) >= MOST:
            raise ValueError(f"{shown(pattern)} stands for more than {MOST:,} names")
        zeros = any(len(end) > 1 and end[0] == "0" for end in (first, last))
        width = max(len(first), len(last)) if zeros else 0
        step = 1 if low <= high else -1
        return [f"{number:0{width}d}" for number in range(low, high + step, step)]
    if "," in inner:
        return inner.split(",")
    raise ValueError(
        f"{{{inner}}} in {shown(pattern)} is neither a range such as {{000..099}} nor a list such "
        "as {train,val}"
    )
