"""What `--help` shows of a command's flags: what they take, and defaults that say something.

Only the page is made of this; what a command accepts is what its dataclass says.
"""

import ast
import dataclasses
import inspect
import textwrap
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import tyro

# What a flag takes, by its field's name; another text or path has the name itself. Numbers are N,
# or X where they need not be whole.
_TAKES = {
    "prompts": "PROMPT",
    "what": "WHAT",
    "images": "IMAGE",
    "embeddings": "FILE",
    "path": "PATH",
    "output": "PATH",
    "sheet": "FILE",
    "preview": "FILE",
    "recipe": "FILE",
    "run": "DIR",
    "stages": "STAGE",
    "to": "TEXT",
    "from_": "TEXT",
    "words": "IMAGE [MASK] PROMPT",
}


def described(options: Any, default: Any = None) -> tuple[Any, Any]:
    """The same flags, each with what help says of it; and the same values, if there are any.

    Args:
        options: a dataclass; what is none stays as it is.
        default: an instance of it.
    """
    if not dataclasses.is_dataclass(options) or not isinstance(options, type):
        return options, default
    told = _sentences(options)
    changed = [(one.name, _hint(one, told.get(one.name)), _again(one)) for one in _fields(options)]
    frozen = vars(options)["__dataclass_params__"].frozen
    page = dataclasses.make_dataclass(
        options.__name__, changed, bases=(options,), frozen=frozen, kw_only=True,
        namespace={"__doc__": options.__doc__},
    )  # fmt: skip
    if default is not None:
        default = page(**{one.name: getattr(default, one.name) for one in _fields(options)})
    return page, default


def wrapped(page: str, width: int) -> str:
    """The page with what stands outside the boxes, a command's description, in lines of `width`."""
    rows = page.split("\n")
    return "\n".join(
        row if len(row) <= width or not row[:1].isalpha() else textwrap.fill(row, width)
        for row in rows
    )


def _fields(options: type) -> "tuple[dataclasses.Field[Any], ...]":
    return dataclasses.fields(options)


def _again(field: "dataclasses.Field[Any]") -> Any:
    """A field with the same default."""
    if field.default is not dataclasses.MISSING:
        return dataclasses.field(default=field.default, kw_only=True)
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory, kw_only=True)
    return dataclasses.field(kw_only=True)


def _hint(field: "dataclasses.Field[Any]", said: str | None) -> Any:
    """The field's annotation with its sentence, what it takes, and no default that says nothing."""
    kind, several = _kind(field.type)
    pairs_off: Any = tyro.conf.FlagCreatePairsOff  # --no-x says no more than leaving out --x
    hint: Any = pairs_off[field.type]
    if dataclasses.is_dataclass(kind):
        return hint
    takes = _TAKES.get(field.name, field.name.upper().replace("_", "-"))
    if kind is Path and not several and (field.name not in _TAKES or takes == _TAKES["images"]):
        takes = _TAKES["path"]  # a folder of images, too
    optional = field.default is not dataclasses.MISSING
    if several:
        takes = f"[{takes} …]" if optional else f"{takes} […]" if " " not in takes else takes
    argument = tyro.conf.arg(
        help=said,
        metavar=takes if kind in (str, Path) else None,
        help_behavior_hint=_default_of(field, several),
    )
    return Annotated[hint, argument]


def _default_of(field: "dataclasses.Field[Any]", several: bool) -> str | None:
    """What help says of a flag that is left out; None for the value itself."""
    if field.default is dataclasses.MISSING:
        return "(required)" if several else None
    silent = field.default is None or isinstance(field.default, bool) or field.default in ("", ())
    return "" if silent else None


def _kind(hint: Any) -> tuple[Any, bool]:
    """What a flag is of, and whether it takes several."""
    if get_origin(hint) is Annotated:
        return _kind(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        kinds = [one for one in get_args(hint) if one is not NoneType]
        return _kind(kinds[0]) if len(kinds) == 1 else (hint, False)
    if get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis:
        return _kind(get_args(hint)[0])[0], True
    return hint, False


def _sentences(options: type) -> dict[str, str]:
    """The strings below the fields of a class and of those that it inherits from, in one line."""
    told: dict[str, str] = {}
    for one in reversed(options.__mro__):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        except (OSError, TypeError, ValueError, SyntaxError):  # made by a program, or built in
            continue
        body = getattr(tree, "body", [])
        for field, text in pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                told[field.target.id] = " ".join(text.value.value.split())
    return told
