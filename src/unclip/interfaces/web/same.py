"""What does on the command line, and in Python, what the page did."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unclip.device.precision import name_of
from unclip.interfaces.cli.reproduction import command_for
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.openai import command_notes, opening_words
from unclip.pipeline.settings import Settings


def line_of(info: Mapping[str, Any]) -> str:
    """The command that an image's notes tell, for a shell."""
    return command_for(info)


def words_of(
    desk: Desk,
    command: str,
    files: Sequence[str],
    flags: Mapping[str, Any],
    seed: int | None,
    settings: Settings,
) -> list[str]:
    """The words after `unclip` of a command about files.

    Args:
        files: what stands without a flag; a caption may be among them.
        flags: by name; True is the flag alone, None and False leave it out; a tuple follows it, and
            of a list each has a flag of its own.
        seed: None where the command takes none.
    """
    words: list[str] = []
    for name, value in flags.items():
        if value is True:
            words.append(f"--{name}")
        elif isinstance(value, str) and value.startswith("-"):
            words.append(f"--{name}={value}")
        elif isinstance(value, list):
            words += [word for one in value for word in (f"--{name}", str(one))]
        elif value is not None and value is not False:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}", *map(str, values)]
    if seed is None:
        words += opening_words(desk)
    else:
        words += command_notes(desk, [], seed, settings)["command"]
    dashed = any(file.startswith("-") for file in files)  # would pass for flags
    return [command, *words, "--", *files] if dashed else [command, *files, *words]


def opening(desk: Desk, *, pillow: bool = False) -> str:
    """The first lines of a program: what is imported, and the desk's model."""
    return opening_of(desk.model, desk, pillow=pillow)


def opening_of(model: str | None, desk: Desk, *, pillow: bool = False) -> str:
    """The same with another model, at the desk's precision."""
    arguments = [repr(model)] if model else []
    arguments.append(f"dtype={name_of(desk.pipe.dtype)!r}")
    imports = ["from PIL import Image", ""] if pillow else []
    return "\n".join([
        *imports, "import unclip", "",
        f"pipe = unclip.Pipeline.from_pretrained({', '.join(arguments)})",
    ])  # fmt: skip


def call(function: str, *arguments: Any, seed: int | None, settings: Settings) -> str:
    """A call with its settings; arguments that are `Raw` stand as they are."""
    said = [one if isinstance(one, Raw) else literal(one) for one in arguments]
    said += [] if seed is None else [f"seed={seed}"]
    said += [f"{name}={literal(value)}" for name, value in settings.changed().items()]
    line = f"{function}({', '.join(said)})"
    if len(line) <= 88:
        return line
    return f"{function}(\n    " + ",\n    ".join(said) + ",\n)"


class Raw(str):
    """Words of Python that are no literal."""


def literal(value: Any) -> str:
    """A value as Python spells it."""
    if isinstance(value, float) and math.isinf(value):
        return 'float("inf")'
    if isinstance(value, tuple | list):
        inner = ", ".join(map(literal, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner},)"
    return repr(value)


SAVED = 'for number, image in enumerate(made.images):\n    image.save(f"{number}.png")'
"""How all programs end."""
