"""The command that makes an image again, from its notes."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from unclip.pipeline.settings import flags

_OWN_FLAGS = frozenset({"prompt", "seed", "model", "output", "n", "help"})


def command_for(info: Mapping[str, Any]) -> str:
    """The `unclip` command that makes the image again, quoted for a POSIX shell.

    Notes of other commands than `generate` hold its words under `command`.
    Settings become flags, `--key-name value`; True is `--key`, False `--no-key`, None is left out.
    Control and invisible characters are escaped, so that the line is safe to print and to paste.

    ValueError if there is no prompt, or a value that no flag can take.
    """
    if "command" in info:
        given = info["command"]
        if not (isinstance(given, list) and all(isinstance(word, str) for word in given)):
            raise ValueError("the image's notes hold a damaged command")
        return " ".join(["unclip", *map(_quoted, given)])
    prompts, settings = info.get("prompt"), info.get("settings") or {}
    prompts = [prompts] if isinstance(prompts, str) else prompts
    texts = isinstance(prompts, list) and all(isinstance(prompt, str) for prompt in prompts)
    if not (texts and prompts) or not isinstance(settings, Mapping):
        raise ValueError("the image's notes hold no prompt, so no command can make it again")
    words = ["unclip", "generate"]
    quoted = list(map(_quoted, prompts))
    dashed = any(prompt.startswith("-") for prompt in prompts)  # would pass for flags
    words += [] if dashed else quoted
    for key in ("n", "seed", "model", "output"):
        words += _flag(key, info.get(key))
    known = flags()
    for key, value in settings.items():
        name = known.get(key, key.replace("_", "-"))
        if not re.fullmatch(r"[a-z][a-z0-9.-]*", name) or name in _OWN_FLAGS:
            raise ValueError(f"the image's notes hold the setting {key!r}, which is no flag")
        words += _flag(name, value)
    return " ".join([*words, "--", *quoted] if dashed else words)


def _flag(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, str) and value.startswith("-"):  # would pass for a flag
        return [f"--{name}={_quoted(value)}"]
    values = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(one, str | int | float) for one in values):
        raise ValueError(f"the image's notes hold {name} = {value!r}, which is no flag's value")
    return [f"--{name}", *(_quoted(str(one)) for one in values)]


def _quoted(text: str) -> str:
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, text))}'"  # bash, zsh, and POSIX since 2024


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    if "\ud800" <= character <= "\udfff":  # half a character: the bytes are lost already
        return "?"
    # Three octal digits per byte: unlike \u, understood by every one of these shells.
    return "".join(f"\\{byte:03o}" for byte in character.encode())
