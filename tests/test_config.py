"""Dataclasses, mappings and TOML: there and back, and one clear sentence for every mistake."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unclip.config import dump_toml, from_mapping, merge, read_toml, suggest, to_mapping


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ("a",)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError("rate must not be negative")


@dataclass(frozen=True)
class Outer:
    steps: int
    kind: Literal["x", "y"] = "x"
    pair: tuple[int, float] = (1, 2.0)
    maybe: int | None = None
    mixed: int | str = 3
    on: bool = True
    inner: Inner = field(default_factory=Inner)
    free: Any = None


def test_there_and_back() -> None:
    config = Outer(3, "y", (4, 5.5), 6, "seven", False, Inner(0.5, ("b", "c")))
    mapping = to_mapping(config)
    assert mapping["inner"] == {"rate": 0.5, "names": ["b", "c"]}
    assert from_mapping(Outer, mapping, "test") == config


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, r"recipe: the key 'steps' is missing"),
        ({"stesp": 1}, r"recipe: unknown key 'stesp'; did you mean 'steps'\?"),
        ({"zzzzz": 1}, r"unknown key 'zzzzz'; known: .*inner.*steps"),
        ({"steps": "1"}, r"recipe: steps is '1'; it must be a whole number"),
        ({"steps": True}, "steps is True; it must be a whole number"),
        ({"steps": 1.5}, "steps is 1.5; it must be a whole number"),
        ({"steps": 1, "kind": "z"}, "kind is 'z'; it must be one of 'x', 'y'"),
        ({"steps": 1, "pair": [1]}, "pair has 1 entries; it must have 2"),
        ({"steps": 1, "pair": 3}, "pair is 3; it must be a list"),
        ({"steps": 1, "pair": "ab"}, "pair is 'ab'; it must be a list"),
        ({"steps": 1, "on": 1}, "on is 1; it must be of type bool"),
        ({"steps": 1, "maybe": "no"}, "maybe is 'no'"),
        ({"steps": 1, "inner": 3}, "inner is 3; it must be a table"),
        ({"steps": 1, "inner": {"ratee": 3}}, "recipe: inner: unknown key 'ratee'"),
        ({"steps": 1, "inner": {"names": [1]}}, "recipe: inner: names is 1"),
        ({"steps": 1, "inner": {"rate": -1.0}}, "rate must not be negative"),
    ],
)
def test_mistakes_are_named(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        from_mapping(Outer, values, "recipe")
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_floats_too_and_none_is_allowed_where_it_is_an_option() -> None:
    config = from_mapping(
        Outer, {"steps": 1, "pair": [1, 2], "maybe": None, "inner": {"rate": 1}}, "test"
    )
    assert isinstance(config.pair[1], float)
    assert isinstance(config.inner.rate, float)
    assert config.maybe is None


def test_merge_goes_into_tables_and_replaces_the_rest() -> None:
    base = {"a": 1, "b": {"c": 2, "d": [1, 2]}}
    assert merge(base, {"b": {"d": [3]}, "e": 4}) == {"a": 1, "b": {"c": 2, "d": [3]}, "e": 4}
    assert base == {"a": 1, "b": {"c": 2, "d": [1, 2]}}


_KEYS = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
_VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=3),
)
_TABLES = st.dictionaries(_KEYS, _VALUES, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_KEYS, st.one_of(_VALUES, _TABLES, st.dictionaries(_KEYS, _TABLES))))
def test_toml_there_and_back(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "recipe.toml"
    file.write_text(dump_toml(values) + "\n", encoding="utf-8", newline="")
    assert repr(_without_empty(read_toml(file))) == repr(_without_empty(values))


def _without_empty(value: Any) -> Any:
    """Sorted, and without empty tables, of which TOML keeps no trace."""
    if not isinstance(value, dict):
        return value
    plain = {key: _without_empty(value[key]) for key in sorted(value)}
    return {key: inner for key, inner in plain.items() if inner != {}}


def test_none_is_left_out() -> None:
    assert dump_toml({"a": None, "b": {"c": None}, "d": 1}) == "d = 1\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"a = ", "is not a TOML file"), (b"\xff\xfe", "is not UTF-8 text"), (None, "cannot read")],
)
def test_files_that_are_no_recipes(content: bytes | None, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as caught:
        read_toml(file)
    assert str(file) in str(caught.value)


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(ValueError, match=r"test: inner: names is 'a\\udcff'; it must be valid"):
        from_mapping(Outer, {"steps": 1, "inner": {"names": ["a\udcff"]}}, "test")


def test_suggestions() -> None:
    assert suggest("samll", ["small", "tiny"]) == "; did you mean 'small'?"
    assert suggest("huge", ["small", "tiny"]) == "; known: small, tiny"
    words = [f"{letter}{number:02}" for letter in "ab" for number in range(100)]
    assert suggest("?", words).startswith("; known: a00, a01, ")
    assert suggest("?", words).endswith(", a71 and 128 more")
