"""Numbers on the command line: what is none, or outside its bounds, is refused in plain words
before anything is opened. tyro reads every flag that is a number, or a path, by these rules.
"""

import math
import re
import types
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from unclip.checks import many, real_number, shown, whole_number
from unclip.config import suggest
from unclip.device.names import usual

_IT = "the value"
_INT, _FLOAT = "N", "X"
_MANY = 64  # values of one flag
_LONGEST = 10**8  # seconds, three years
_NONE = ["None"]  # what help shows for a number that is left out, and may be typed


def whole(least: int, most: int) -> PrimitiveConstructorSpec[int]:
    """Reads a whole number with bounds, themselves allowed."""

    def read(words: list[str]) -> int:
        return whole_number(_int(words[0]), _IT, least, most)

    return _spec(_INT, read, int)


def real(least: float, most: float) -> PrimitiveConstructorSpec[float]:
    """Reads a number with bounds, themselves allowed; NaN is none."""

    def read(words: list[str]) -> float:
        try:
            value = float(words[0])
        except ValueError:
            raise ValueError(f"{shown(words[0])} is not a number") from None
        return real_number(value, _IT, least, most)

    return _spec(_FLOAT, read, float)


def _spec(
    metavar: str, read: Callable[[list[str]], Any], kind: type
) -> PrimitiveConstructorSpec[Any]:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda x: isinstance(x, int | kind) and not isinstance(x, bool),
        str_from_instance=lambda x: [str(x)],
    )


def _int(word: str) -> int:
    """Python's own would take underscores and digits of other scripts, and no more than 4,300."""
    digits = word.strip().removeprefix("-").removeprefix("+")
    if "," in word and all(part.strip().isdecimal() for part in word.split(",")):
        raise ValueError(f"{shown(word)} is not one number; separate several by spaces")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{shown(word)} is not a whole number")
    if len(digits) > 40:
        raise ValueError(f"{shown(word)} is larger than any number that makes sense here")
    return int(word)


def _path(words: list[str]) -> Path:
    if not words[0]:
        raise ValueError("the path is empty")  # and would be the folder that one is in
    return Path(words[0])


def seconds_in(text: str, name: str) -> float:
    """A time such as "90s", "30m", "1h", "1.5h" or "1h30m", in seconds.

    Args:
        name: of the flag.

    Raises:
        ValueError: it is none.
    """
    number = r"(\d{1,9}(?:\.\d{1,9})?)"
    found = re.fullmatch(f"(?:{number}h)?(?:{number}m(?:in)?)?(?:{number}s)?", text.strip().lower())
    parts = found.groups() if found else ()
    seconds = sum(float(n) * unit for n, unit in zip(parts, (3600, 60, 1), strict=False) if n)
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"{name} is {shown(text)}; give a time such as 90s, 30m, 1h or 1h30m")
    return seconds


Seed = Annotated[int, whole(-(2**63), 2**64 - 1)]
Count = Annotated[int, whole(1, 100_000)]
"""Of scenes or images that are measured."""
Pool = Annotated[int, whole(1, 10_000)]
"""Of candidates: all pairs of them are held against each other."""
Width = Annotated[int, whole(0, 100_000)]
Side = Annotated[int, whole(1, 64)]
"""Rows or columns of a sheet."""
Steps = Annotated[int, whole(1, 10_000)]
"""Of sampling; a model has its own limit, the steps that it was trained with."""
Pixels = Annotated[int, whole(1, 2**15)]
BatchSize = Annotated[int, whole(1, 10_000)]
Fraction = Annotated[float, real(0, 1)]
Port = Annotated[int, whole(1, 65535)]


def flag_type(hint: Any, choices: Collection[str] = ()) -> Any:
    """What tyro reads a field of a configuration as: its bounds are the flag's.

    Args:
        hint: the field's annotation.
        choices: the words that it takes, if it takes some.
    """
    if get_origin(hint) is Annotated:
        kind, bounds = get_args(hint)[:2]
        read = whole if kind is int else real
        return Annotated[kind, read(bounds.least, bounds.most)]
    args = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        args = tuple(one for one in args if not _endless(one))
        return Union[tuple(flag_type(one, choices) for one in args)]  # noqa: UP007
    if get_origin(hint) is tuple:
        return tuple.__class_getitem__(tuple(flag_type(one) for one in args))
    return Literal[tuple(choices)] if hint is str and choices else hint


def _endless(hint: Any) -> bool:
    """Whether it is any number of values, which Python takes and a flag, for one, does not."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis


def rules() -> ConstructorRegistry:
    """What tyro is told of numbers and paths, of several, and of those that may be left out."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def plain(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if info.type is int:
            return whole(-(2**63), 2**64 - 1)
        return real(-math.inf, math.inf) if info.type is float else None

    @registry.primitive_rule
    def path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if info.type is not Path:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=_path,
            is_instance=lambda x: isinstance(x, Path),
            str_from_instance=lambda x: [str(x)],
        )

    @registry.primitive_rule
    def precision(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        words = get_args(info.type)
        return _precision(words) if "bf16" in words else None

    @registry.primitive_rule
    def several(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        items = get_args(info.type)
        if info.type_origin is not tuple or not items:
            return None
        specs = [_inner(item, info) for item in items if item is not Ellipsis]
        if any(spec is None or spec.metavar not in (_INT, _FLOAT) for spec in specs):
            return None
        return _tuple([spec for spec in specs if spec], endless=items[-1] is Ellipsis)

    @registry.primitive_rule
    def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        kinds = [kind for kind in get_args(info.type) if kind is not type(None)]
        if info.type_origin not in (Union, types.UnionType) or len(kinds) != 1:
            return None
        spec = _inner(kinds[0], info)
        return None if spec is None else _or_none(spec)

    return registry


def _precision(words: tuple[str, ...]) -> PrimitiveConstructorSpec[Any]:
    """Reads the name of a data type, torch's names too."""

    def read(given: list[str]) -> Any:
        name = usual(given[0])
        if name not in words:
            raise ValueError(f"there is no {shown(name)}{suggest(name, words)}")
        return name

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(words)}}}",
        instance_from_str=read,
        is_instance=lambda x: x in words,
        str_from_instance=lambda x: [x],
    )


def _inner(kind: Any, outer: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    found = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, outer.markers))
    return found if isinstance(found, PrimitiveConstructorSpec) else None


def _tuple(
    specs: list[PrimitiveConstructorSpec[Any]], endless: bool
) -> PrimitiveConstructorSpec[Any]:
    count = len(specs)

    def read(words: list[str]) -> tuple[Any, ...]:
        if not endless and len(words) != count:
            raise ValueError(f"it takes {many(count, 'values')}, not {len(words)}")
        if endless and not 1 <= len(words) <= _MANY:
            raise ValueError(f"it takes 1 to {_MANY} values, not {len(words):,}")
        kinds = specs * len(words) if endless else specs
        return tuple(spec.instance_from_str([w]) for spec, w in zip(kinds, words, strict=False))

    metavar = " ".join(spec.metavar for spec in specs)
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"{metavar} [{metavar} …]" if endless else metavar,
        instance_from_str=read,
        is_instance=lambda x: isinstance(x, tuple),
        str_from_instance=lambda values: [str(value) for value in values],
    )


def _or_none(spec: PrimitiveConstructorSpec[Any]) -> PrimitiveConstructorSpec[Any]:
    def read(words: list[str]) -> Any:
        if words == _NONE:
            return None
        if spec.choices and words[0] not in spec.choices:
            raise ValueError(f"there is no {shown(words[0])}{suggest(words[0], spec.choices)}")
        return spec.instance_from_str(words)

    return PrimitiveConstructorSpec(
        nargs=spec.nargs,
        metavar=spec.metavar,
        instance_from_str=read,
        is_instance=lambda x: x is None or spec.is_instance(x),
        str_from_instance=lambda x: _NONE if x is None else spec.str_from_instance(x),
    )
