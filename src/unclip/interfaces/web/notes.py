"""A PNG's notes read back into the form."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from unclip.checks import printable
from unclip.interfaces.cli.options import parse
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.web.knobs import told as knobs_told
from unclip.interfaces.web.tabs.table import TABS
from unclip.outputs.images import read_info
from unclip.pipeline.settings import known


@dataclass(frozen=True)
class Notes:
    """What a form shall say.

    Args:
        tab: that is opened.
        values: by the fields' names on the page.
        said: what a person should know.
    """

    tab: str
    values: dict[str, Any]
    said: str


def notes_of(path: Path, desk: Desk) -> Notes:
    """The notes of an image.

    Raises:
        ValueError: it has none, or what no tab can do.
    """
    try:
        notes = read_info(path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), printable(path.name))) from None
    command = notes.get("command")
    name, options = "generate", None
    if command is not None:
        name, options = _parsed(command)
    tab = next((tab for tab in TABS if tab.name == name), None)
    assert tab is not None
    if options is None:
        said, names = notes.get("settings") or {}, known().__dataclass_fields__
        if not isinstance(said, dict):
            raise ValueError("the image's notes hold damaged settings")
        settings = known()(**{name: value for name, value in said.items() if name in names})
        values, seed = tab.told(notes), notes.get("seed")
    else:
        settings = options.settings() if hasattr(options, "settings") else known()()
        values, seed = tab.told(options), getattr(options, "seed", None)
    every = {f"{tab.name}.{field}": value for field, value in values.items()}
    every |= knobs_told(settings, desk.pipe.sizes)
    every |= {"seed": str(seed)} if isinstance(seed, int) else {}
    try:
        "".join(value for value in every.values() if isinstance(value, str)).encode()
    except UnicodeEncodeError:  # a half of a pair of UTF-16, which no form can have
        raise ValueError("the image's notes hold damaged words") from None
    return Notes(tab.name, every, _said(notes, tab.images, desk))


def _parsed(command: Any) -> tuple[str, Any]:
    """The options of a command, as the command line reads them; nothing of it is done."""
    words = command if isinstance(command, list) else []
    if not words or not all(isinstance(word, str) for word in words):
        raise ValueError("the image's notes hold a damaged command")
    while len(words) > 2 and words[0].startswith("--"):  # --revision COMMIT
        words = words[2:]
    name, *rest = words
    if name == "generate":  # whose notes say all of it, and have no command
        raise ValueError("the image's notes hold a damaged command")
    commands = {tab.name for tab in TABS} - {"compare"}  # whose images are generate's
    if name not in commands or {"-h", "--help"} & set(rest):
        raise ValueError(
            f"the image was made by unclip {printable(name)[:30]}, for which there is no tab"
        )
    module = import_module(f"unclip.interfaces.cli.commands.{name}")
    return name, parse(getattr(module, name.capitalize()), name, rest)


def _said(notes: dict[str, Any], images: Sequence[str], desk: Desk) -> str:
    model = notes.get("model")
    said = "The form says what made this image"
    if images:
        said += "; give the image that it was made from"
    if model != desk.model:
        there = "the bundled model" if model is None else f"the model {printable(str(model))[:100]}"
        said += f". It was made by {there}, which is not the one served here"
    return f"{said}."
