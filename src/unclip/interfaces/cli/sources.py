"""Data that a command names, beside `unclip train`: the same names, and flags of its own."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from unclip.checks import shown

if TYPE_CHECKING:
    from unclip.data.sources import Source, Stream


def open_named(name: str, **more: Any) -> "Source | Stream":
    """`registry.open_source`, in the words of commands that call a flag --template."""
    from unclip.data.registry import open_source

    check_template(more.get("template", ""))
    with own_words():
        return open_source(name, **more)


def check_template(template: str) -> None:
    """Refuse a --template that says nothing of the class."""
    if template and "{}" not in template:
        raise ValueError(f"--template is {shown(template)}; it needs {{}} for the class's name")


@contextmanager
def own_words() -> Iterator[None]:
    """Sentences of data, which name the flags of `unclip train STAGE`, in a command's own words."""
    try:
        yield
    except ValueError as error:
        raise ValueError(in_own_words(str(error))) from None


def in_own_words(text: str) -> str:
    """What data says of itself, with this command's flags in place of `unclip train STAGE`'s. Few
    commands let a size be chosen."""
    return re.sub(r"--data\.size (?=\d)", "a size of ", text).replace("--data.", "--")
