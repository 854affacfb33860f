"""Strict conversion between frozen dataclasses, plain mappings and TOML files.

Every configuration of the package is a frozen dataclass beside the class that it configures and
validates itself in `__post_init__`. This module only moves them in and out of files, and is strict
about it: a key that no field carries is an error that names the key, never ignored.
"""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from a mapping, recursing into fields that are dataclasses.

    Args:
        cls: a dataclass type.
        mapping: values by field name; fields left out keep their default.
        where: how messages name the origin, e.g. a file.

    Raises:
        ValueError: an unknown key (with the nearest known one), a missing required key, or a value
            of the wrong type.
    """
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in mapping:
        if key not in fields:
            raise ValueError(f"{where}: unknown key {key!r}{suggest(key, fields)}")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in mapping.items()}
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            raise ValueError(f"{where}: the key {name!r} is missing")
    return cls(**values)


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
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the recipe {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from None


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


def suggest(word: str, known: typing.Iterable[str]) -> str:
    """A tail for error messages: the nearest known word, else all of them."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(words)}"


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


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type, or a ValueError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is typing.Literal:
        if value not in args:
            raise ValueError(
                f"{where} is {value!r}; it must be one of {', '.join(map(repr, args))}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(f"{where} is {value!r}; it must be a list")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], item, where) for item in value)
        if len(args) != len(value):
            raise ValueError(f"{where} has {len(value)} entries; it must have {len(args)}")
        return tuple(_convert(a, item, where) for a, item in zip(args, value, strict=True))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}; it must be a table of keys")
        return from_mapping(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong_bool = isinstance(value, bool) and hint is not bool
    if isinstance(hint, type) and (wrong_bool or not isinstance(value, hint)):
        raise ValueError(f"{where} is {value!r}; it must be of type {hint.__name__}")
    return value


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is not type(None):
            try:
                return _convert(option, value, where)
            except ValueError as error:
                errors.append(error)
    raise errors[0]
