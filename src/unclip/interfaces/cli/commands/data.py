"""`unclip data WHAT`: captioned images, looked at before anything is trained on them."""

import importlib
from collections.abc import Callable, Sequence

from unclip.checks import shown
from unclip.config import suggest

# name: (what it does, module in this package)
LOOKS = {
    "inspect": ("count images, captions and problems, and draw a sheet of them", "inspect_data"),
    "index": ("index tar shards, so that any of their images is at hand", "index_data"),
    "emoji": ("draw scenes of the built-in captioned world", "world"),
}


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip data` say, and give the exit code."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:<8} {what}" for name, (what, _) in LOOKS.items())
        print(f"usage: unclip data {'|'.join(LOOKS)} …\n\n{rows}")
        return 0 if words else 2
    if words[0] not in LOOKS:
        raise ValueError(f"unclip data does not know {shown(words[0])}{suggest(words[0], LOOKS)}")
    module = importlib.import_module(f"unclip.interfaces.cli.commands.{LOOKS[words[0]][1]}")
    look: Callable[[Sequence[str]], int] = module.run
    return look(words if words[0] == "emoji" else words[1:])
