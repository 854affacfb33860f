"""Knobs: fields of a dataclass that say of themselves what flags, notes, presets, a JSON schema and
the documentation need to know. Everything about a knob stands where the field does.

Nothing heavy is imported here: the command line's help is made of it.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any

from unclip.config import Between, Checked, one_of

INVERSION = "the inversion's"
"""As `Knob.inverted`: with latents, the number of steps that they were inverted with."""


@dataclass(frozen=True)
class Knob:
    """What is to be known of a field beside its name, annotation and default.

    Args:
        help: what it is, beginning with a noun; a sentence or two without the last full stop.
        stages: those that it concerns; flags of commands that use none of them lack it.
        flag: its name on the command line; the field's own if empty.
        choices: the words that it takes, if it takes words: a table that may grow, or what gives
            them.
        row: what a row of a preset, which is about one stage, and `Sampling` call it ("steps" for
            `decoder_num_inference_steps`); the field's own name if empty.
        preset, model: whether a preset's rows, and a model's `_defaults`, may say it.
        beside: the knob that a preset's value belongs to: where a request says that one, a preset's
            value of this one counts no more.
        published: the value of models of the published layout, which say none.
        inverted: the value that leads from latents back to their image.
        edited: what it is in edits of latents, where that is not `inverted`.
        left_out: who says it if nobody does here; made of `preset` and `model` if empty.
    """

    help: str
    stages: tuple[str, ...]
    flag: str = ""
    choices: Collection[str] | Callable[[], Collection[str]] = ()
    row: str = ""
    preset: bool = False
    model: bool = False
    beside: str = ""
    published: Any = None
    inverted: Any = None
    edited: str = ""
    left_out: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """The choices as they are now."""
        return tuple(self.choices() if callable(self.choices) else self.choices)

    def sentence(self, inverts: bool, edits: bool | None = None) -> str:
        """Help: what it is, and what it is if it is left out.

        Args:
            inverts: whether the command can start from inverted latents.
            edits: whether it edits them; None: help for all commands.
        """
        said = [("the preset's", self.preset), ("the model's own", self.model)]
        otherwise = self.left_out or " or ".join(words for words, may in said if may)
        if self.inverted is not None and inverts:
            value = self.inverted if isinstance(self.inverted, str) else f"{self.inverted:g}"
            if self.edited:
                value = self.edited if edits else value
                value += f" ({self.edited} in edits)" if edits is None else ""
            otherwise = f"{value} with inverted latents, else {otherwise}"
        return f"{self.help}. If left out, {otherwise}." if otherwise else f"{self.help}."


def knob(help: str, *stages: str, default: Any = None, **more: Any) -> Any:
    """A dataclass field that is a knob; `more` are `Knob`'s other arguments."""
    return dataclasses.field(default=default, metadata={"knob": Knob(help, stages, **more)})


class Knobs(Checked):
    """Base of frozen dataclasses whose fields are knobs: words are among their choices, too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, one in knobs_of(type(self)).items():
            value = getattr(self, name)
            if one.words and value is not None:
                one_of(value, (one.row or name).replace("_", " "), one.words)


def knobs_of(kind: Any) -> dict[str, Knob]:
    """The knobs of a class by their fields' names, in order."""
    return {f.name: f.metadata["knob"] for f in dataclasses.fields(kind) if "knob" in f.metadata}


def hints_of(kind: Any) -> dict[str, Any]:
    """The annotations of a class, bounds included."""
    return typing.get_type_hints(kind, include_extras=True)


def flag_of(name: str, one: Knob) -> str:
    """The flag without its dashes."""
    return one.flag or name.replace("_", "-")


def concerning(kind: Any, stages: Collection[str]) -> dict[str, Knob]:
    """The knobs that concern one of the stages."""
    return {name: one for name, one in knobs_of(kind).items() if set(one.stages) & set(stages)}


# ---- other ways to write them down ---------------------------------------------------------------


def json_schema(kind: Any) -> dict[str, Any]:
    """A JSON schema (draft 2020-12) of the class: an object whose keys are the knobs, all optional.

    What it takes, `kind(**object)` takes too, but for what two values must be together.
    """
    properties = {
        name: {"description": one.sentence(True), **_schema(hints_of(kind)[name], one.words)}
        for name, one in knobs_of(kind).items()
    }
    for field in dataclasses.fields(kind):
        properties[field.name]["default"] = field.default
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.__name__,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _schema(hint: Any, choices: Collection[str], bounds: Between | None = None) -> dict[str, Any]:
    if typing.get_origin(hint) is Annotated:
        inner, *notes = typing.get_args(hint)
        between = [note for note in notes if isinstance(note, Between)]
        return _schema(inner, choices, between[0] if between else None)
    args = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(one, choices) for one in args]}
    if hint is type(None):
        return {"type": "null"}
    if typing.get_origin(hint) is tuple and args[-1] is Ellipsis:
        assert bounds is not None
        length = {"minItems": bounds.least, "maxItems": bounds.most}
        return {"type": "array", "items": _schema(args[0], ()), **length}
    if typing.get_origin(hint) is tuple:
        items = [_schema(one, ()) for one in args]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "items": False}
    if hint is str:
        return {"enum": list(choices)} if choices else {"type": "string"}
    found: dict[str, Any] = {"type": {int: "integer", float: "number", bool: "boolean"}[hint]}
    if bounds:  # JSON has no infinity
        found |= {"minimum": bounds.least} if math.isfinite(bounds.least) else {}
        found |= {"maximum": bounds.most} if math.isfinite(bounds.most) else {}
    return found


def markdown_table(kind: Any) -> str:
    """The knobs as a table for docs/sampling.md."""
    rows = ["| argument | flag | what it is | values |", "|---|---|---|---|"]
    for name, one in knobs_of(kind).items():
        what = one.sentence(True).replace("|", "\\|")
        rows.append(f"| `{name}` | `--{flag_of(name, one)}` | {what} | {values_of(kind, name)} |")
    return "\n".join(rows) + "\n"


def values_of(kind: Any, name: str) -> str:
    """In words: the choices, or the bounds."""
    one, hint = knobs_of(kind)[name], hints_of(kind)[name]
    return ", ".join(f"`{word}`" for word in one.words) or _values(hint)


def _values(hint: Any) -> str:
    if typing.get_origin(hint) is Annotated:
        inner, bounds = typing.get_args(hint)[:2]
        least, most = (f"{n:,}" if isinstance(n, int) else f"{n:g}" for n in
                       (bounds.least, bounds.most))  # fmt: skip
        return f"{'whole numbers' if inner is int else 'numbers'} from {least} to {most}"
    args = [one for one in typing.get_args(hint) if one is not type(None)]
    if typing.get_origin(hint) is tuple:
        return f"{len(args)} {_values(args[0])}"
    return _values(args[0]) if args else "a word"
