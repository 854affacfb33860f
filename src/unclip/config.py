"""Strict conversion between frozen dataclasses, plain mappings and TOML files.

Every configuration of the package is a frozen dataclass beside the class that it configures, and
`Checked`: however it is built, its fields are of the kinds that their annotations say, and numbers
within the bounds that stand there too, `Annotated[int, Between(1, 64)]`. Files are read strictly: a
key that no field carries is an error that names the key, never ignored.
"""

import dataclasses
import difflib
import itertools
import json
import math
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from unclip.checks import printable, real_number, shown, whole_number
from unclip.files import read_text

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Between:
    """The bounds of a field's number, themselves allowed; a tuple's are those of its length."""

    least: float
    most: float


@dataclasses.dataclass(frozen=True)
class Also:
    """Other names of a field's words: what gives a word for them, and others as they are."""

    usual: Callable[[object], object]


# Bounds that several configurations share. They are far above what any network of this kind has,
# and low enough that a network of their size can be described (not: held) at no cost.
Width = Annotated[int, Between(1, 2**16)]
Heads = Annotated[int, Between(1, 1024)]
Layers = Annotated[int, Between(1, 256)]
Widths = Annotated[tuple[Width, ...], Between(1, 8)]
Tokens = Annotated[int, Between(1, 2**16)]  # of a caption
Side = Annotated[int, Between(1, 4096)]  # pixels
Seed = Annotated[int, Between(0, 2**64 - 1)]
Count = Annotated[int, Between(1, 10**9)]
Probability = Annotated[float, Between(0, 1)]
Dropout = Annotated[float, Between(0, 0.99)]
Scale = Annotated[float, Between(0, 1000)]  # of guidance
Positive = Annotated[float, Between(1e-20, 10**12)]
# Of sampling, which `Settings` and the stages share.
Steps = Annotated[int, Between(1, 2**16)]  # the process knows how many it can take
Reuse = Annotated[int, Between(1, 1000)]
Resamples = Annotated[int, Between(1, 1000)]
Candidates = Annotated[int, Between(1, 1024)]
Percentile = Annotated[float, Between(0.001, 1)]  # of values, as a fraction
Temperature = Annotated[float, Between(0, 100)]
Nucleus = Annotated[float, Between(1e-6, 1)]  # probability that is drawn from
Pixels = Annotated[int, Between(1, 2**15)]  # of a side of what is made
Level = Annotated[float, Between(0, math.inf)]  # of noise over signal, σ
Interval = tuple[Level, Level]


class Checked:
    """Base of every configuration: its values are of their fields' kinds, within their bounds.

    numpy's and torch's numbers become Python's, lists tuples, whole numbers floats where floats are
    meant. A `__post_init__` of a configuration's own calls this one first.

    Raises:
        ValueError: a value that is not, in one sentence that names the field.
    """

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, hint in _hints(kind).items():
            object.__setattr__(self, name, _convert(hint, getattr(self, name), name))


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from a mapping, recursing into fields that are dataclasses.

    Args:
        cls: a dataclass type.
        mapping: values by field name; fields left out keep their default.
        where: how messages name the origin, e.g. a file.

    Raises:
        ValueError: no mapping, an unknown key (with the nearest known one), a missing required key,
            or a value of the wrong kind or out of bounds.
    """
    assert dataclasses.is_dataclass(cls)
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{where} is {shown(mapping)}; it must be a table of keys")
    hints = _hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in mapping:
        if key not in fields:
            raise ValueError(f"{where}: unknown key {shown(key)}{suggest(key, fields)}")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in mapping.items()}
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            raise ValueError(f"{where}: the key {name!r} is missing")
    try:
        return cls(**values)
    except ValueError as error:  # of fields that do not go together
        raise ValueError(f"{where}: {error}") from None


def to_mapping(config: Any) -> dict[str, Any]:
    """The inverse of `from_mapping`: plain dicts, lists, strings, numbers and None."""
    return {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.init
    }


def merge(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `update` put over it, recursively."""
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; `ValueError` in one sentence if it cannot be read or parsed."""
    text = read_text(path, _MAX_RECIPE)
    if any(line.count(".") > _DEEPEST for line in text.split("\n")):  # a.b.c: read in squared time
        raise ValueError(f"{path} has a line that nests more than {_DEEPEST} tables")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise ValueError(f"{path} is not a TOML file: {printable(str(error))}") from None


def dump_toml(mapping: Mapping[str, Any], prefix: str = "") -> str:
    """Write nested mappings as TOML (None values are left out: TOML has none)."""
    lines = [
        f"{key} = {_toml_value(value)}"
        for key, value in mapping.items()
        if not isinstance(value, Mapping) and value is not None
    ]
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            body = dump_toml(value, f"{prefix}{key}.")
            own = any(not isinstance(v, Mapping) and v is not None for v in value.values())
            lines += ["", f"[{prefix}{key}]", body] if own else [body]
    return "\n".join(lines)


def one_of(value: Any, name: str, known: typing.Collection[str]) -> str:
    """`value`, if it is one of the known words; else a `ValueError` that names the nearest."""
    if isinstance(value, str) and value in known:
        return str(value)
    word = value if isinstance(value, str) else ""
    raise ValueError(f"unknown {name} {shown(value)}{suggest(word, known)}")


def suggest(word: object, known: typing.Iterable[str]) -> str:
    """A tail for error messages: the nearest known word, else all of them, or the first of many."""
    words = sorted(known)
    near = nearest(word, words)
    if near:
        return f"; did you mean {near!r}?"
    lengths = itertools.accumulate(len(one) + 2 for one in words)
    first = sum(length <= _LISTED for length in lengths)
    more = f" and {len(words) - first} more" if first < len(words) else ""
    return f"; known: {', '.join(words[:first])}{more}"


def nearest(word: object, known: typing.Iterable[str]) -> str:
    """The known word that was probably meant; "" if none is near."""
    return next(iter(difflib.get_close_matches(str(word)[:_WORD], sorted(known), n=1)), "")


_WORD = 64  # characters of a bad word that are compared with known ones
_LISTED = 360  # characters of known words that are shown
_MAX_RECIPE = 2**17  # bytes
_DEEPEST = 200  # tables in tables


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for one more control character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)


@cache
def _hints(cls: Any) -> dict[str, Any]:
    """The annotation of every field that is given, bounds included."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as what a field's annotation says, or a ValueError."""
    bounds = None
    if typing.get_origin(hint) is Annotated:
        hint, *notes = typing.get_args(hint)
        bounds = next((note for note in notes if isinstance(note, Between)), None)
        for note in notes:
            value = note.usual(value) if isinstance(note, Also) else value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if hint is int or hint is float:
        return _convert_number(hint, bounds, value, where)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is typing.Literal:
        if not (isinstance(value, str) and value in args):
            raise ValueError(
                f"{where} is {shown(value)}; it must be one of {', '.join(map(repr, args))}"
            )
        return value
    if origin is tuple:
        return _convert_tuple(args, bounds, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ValueError(f"{where} is {shown(value)}; it must be a table of keys")
        return {key: _convert(args[1], item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and not isinstance(value, hint):
        return from_mapping(hint, value, where)
    if not isinstance(value, hint):
        raise ValueError(f"{where} is {shown(value)}; it must be of type {hint.__name__}")
    if isinstance(value, str):
        _check_text(value, where)
    return value


def _check_text(value: str, where: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character, of a name that is not UTF-8
        raise ValueError(f"{where} is {shown(value)}; it must be valid Unicode text") from None


def _convert_number(kind: type, bounds: Between | None, value: Any, where: str) -> float:
    least, most = (bounds.least, bounds.most) if bounds else (None, None)
    if kind is float:
        return real_number(value, where, least, most)
    return whole_number(value, where, least, most)  # type: ignore[arg-type]


def _convert_tuple(
    args: tuple[Any, ...], bounds: Between | None, value: Any, where: str
) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError(f"{where} is {shown(value)}; it must be a list")
    if len(args) == 2 and args[1] is Ellipsis:
        if bounds and not bounds.least <= len(value) <= bounds.most:
            raise ValueError(
                f"{where} has {len(value):,} entries; it must have {bounds.least} to {bounds.most}"
            )
        return tuple(_convert(args[0], item, where) for item in value)
    if len(args) != len(value):
        raise ValueError(f"{where} has {len(value):,} entries; it must have {len(args)}")
    return tuple(_convert(a, item, where) for a, item in zip(args, value, strict=True))


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    errors: dict[bool, ValueError] = {}  # the first of options that are lists, and of others
    for option in options:
        if option is not type(None):
            try:
                return _convert(option, value, where)
            except ValueError as error:
                errors.setdefault(_is_list(option), error)
    several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    raise errors.get(several) or next(iter(errors.values()))


def _is_list(hint: Any) -> bool:
    hint = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    return typing.get_origin(hint) is tuple
