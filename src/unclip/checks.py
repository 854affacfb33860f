"""What a user gave, as a number, or a sentence that says why it is none; and how it is shown.

Numbers come from flags, recipes, JSON and Python, where numpy's and torch's are as good as Python's
own. Values and texts that others wrote are never repeated raw: neither at any length, nor with the
control characters that a terminal would obey.
"""

import math
import operator
import re
import shlex
import unicodedata
from collections.abc import Sequence
from typing import Any, SupportsFloat, SupportsIndex, TypeVar, cast

T = TypeVar("T")

_ONE = {"were": "was", "are": "is"}
_SHOWN = 80  # characters of a bad value that a sentence repeats
_OBEYED = ("Cc", "Cs", "Zl", "Zp")  # control and half characters, separators of lines
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def whole_number(value: Any, name: str, least: int | None = None, most: int | None = None) -> int:
    """`value` as an int: Python's, numpy's or torch's, but no bool, float or text.

    Args:
        name: how the sentence calls it.
        least, most: its bounds, themselves allowed.

    Raises:
        ValueError: another kind of value, or one outside the bounds.
    """
    try:
        if _is_bool(value):
            raise TypeError
        number = operator.index(cast(SupportsIndex, value))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is {shown(value)}; it must be a whole number") from None
    _check_bounds(number, name, least, most)
    return number


def real_number(
    value: Any, name: str, least: float | None = None, most: float | None = None
) -> float:
    """`value` as a float: any of Python's, numpy's or torch's numbers, but no bool, text or NaN.

    Args:
        name: how the sentence calls it.
        least, most: its bounds, themselves allowed. Infinity passes only where a bound is infinite.

    Raises:
        ValueError: another kind of value, or one outside the bounds.
    """
    try:
        if isinstance(value, str | bytes) or _is_bool(value):
            raise TypeError
        number = float(cast(SupportsFloat, value))
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is {shown(value)}; it must be a number") from None
    if math.isnan(number) or (math.isinf(number) and number not in (least, most)):
        raise ValueError(f"{name} is {shown(value)}; it must be a finite number")
    _check_bounds(number, name, least, most)
    return number


def seed_after(seed: int, number: int) -> int:
    """The seed that is `number` after another; after the last one of 64 bits comes 0."""
    following = seed + number
    return following if following < 2**64 else following - 2**64


def check_interval(interval: tuple[float, float] | None, name: str) -> None:
    """Refuse an interval of noise levels that ends before it begins; None is no interval."""
    if interval is not None and interval[0] > interval[1]:
        raise ValueError(f"{name} is {interval}; give two noise levels, the lower one first")


def true_or_false(value: Any, name: str) -> bool:
    """`value` as a bool: Python's, numpy's or torch's, and nothing that merely passes for one.

    Raises:
        ValueError: another kind of value.
    """
    try:
        if _is_bool(value):
            return bool(value)
    except (ValueError, RuntimeError):  # an array of several
        pass
    raise ValueError(f"{name} is {shown(value)}; it must be True or False")


def of_kind(value: Any, kind: type[T], name: str, wanted: str) -> T:
    """`value`, if it is an instance of `kind`; the sentence calls it `name`, and that `wanted`.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {wanted}, not {type(value).__name__}")
    return value


def listed(value: Any) -> list[Any]:
    """Several things as a list: of a list, a tuple, or an array's first axis; else the only one."""
    if isinstance(value, str | bytes | bytearray):
        return [value]
    if isinstance(value, Sequence):
        return list(value)
    if hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0:
        try:
            return list(value.tolist())
        except (TypeError, RuntimeError):  # a tensor without values: sparse, or on no device
            return [value]
    return [value]


class Notice(UserWarning):
    """What a user should know although the work goes on, e.g. that a caption was cut."""


def shown(value: Any) -> str:
    """`repr(value)` for a sentence: at most `_SHOWN` characters, all of them printable."""
    try:
        text = repr(value)
    except Exception:  # numbers of thousands of digits, objects of others
        text = f"a {type(value).__name__}"
    text = printable(text)
    if len(text) <= _SHOWN:
        return text
    return f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 4 :]} ({len(text):,} characters)"


def many(count: int, things: str) -> str:
    """A number of things: "1,234 images", "1 image"; "2 images were", "1 image was".

    Args:
        things: begins with a plural that ends in s.
    """
    first, space, rest = things.partition(" ")
    if count == 1:
        first = re.sub(r"s\b", "", first)
        rest = re.sub(r"^(were|are)\b", lambda verb: _ONE[verb[0]], rest)
    return f"{count:,} {first}{space}{rest}"


def printable(text: str) -> str:
    """`text` without what a terminal would obey: such characters as escapes, e.g. `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in _OBEYED or c in _TURNING
        else c
        for c in text
    )


def flag(name: str, value: object) -> str:
    """A flag with its value, as a shell reads it back; on one line, whatever the value holds.

    A value that begins with a dash would be read as a flag itself, so that it is joined by `=`.
    """
    text = printable(str(value))
    return f"{name}{'=' if text.startswith('-') else ' '}{shlex.quote(text)}"


def _is_bool(value: Any) -> bool:
    """Also numpy's and torch's, without importing either."""
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))


def _check_bounds(number: float, name: str, least: float | None, most: float | None) -> None:
    low, high = least is None or number >= least, most is None or number <= most
    if low and high:
        return
    if least is not None and most is not None:
        wanted = f"between {least:,} and {most:,}"
    else:
        wanted = f"{least:,} or more" if least is not None else f"{most:,} or less"
    raise ValueError(f"{name} is {shown(number)}; it must be {wanted}")
