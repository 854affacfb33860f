"""Data that a command names, beside `unclip train`: the same names, and flags of its own."""

from typing import TYPE_CHECKING, Any

from unclip.checks import shown

if TYPE_CHECKING:
    from unclip.data.sources import Source, Stream


def open_named(name: str, **more: Any) -> "Source | Stream":
    """`registry.open_source`, whose sentences name the flags of `unclip train`, in the words of
    commands that call them --size and --template."""
    from unclip.data.registry import open_source

    template = more.get("template", "")
    if template and "{}" not in template:
        raise ValueError(f"--template is {shown(template)}; it needs {{}} for the class's name")
    try:
        return open_source(name, **more)
    except ValueError as error:
        raise ValueError(in_own_words(str(error))) from None


def in_own_words(text: str) -> str:
    """What data says of itself, with this command's flags in place of `unclip train`'s."""
    return text.replace("--data.", "--")
