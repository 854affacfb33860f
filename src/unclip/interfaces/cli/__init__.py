"""`unclip COMMAND …`: finds the command and runs it, on any stream; what fails is one line.

Nothing heavy is imported here: each command imports what it uses, so that help is instant.
"""

import gc
import importlib
import sys
from collections.abc import Callable, Sequence

from unclip import __version__
from unclip.checks import shown
from unclip.config import suggest
from unclip.interfaces.cli.failures import exit_code
from unclip.interfaces.cli.streams import notices, standard_streams

# name: (what it does, module in this package)
COMMANDS = {
    "generate": ("make images for captions", "generate"),
    "batch": ("make images for a table of prompts, on many processes", "batch"),
    "upscale": ("make an image larger", "upscale"),
    "vary": ("make variations of images", "vary"),
    "blend": ("make images between images", "blend"),
    "edit": ("change images towards a text", "edit"),
    "inpaint": ("repaint a part of an image for a caption", "inpaint"),
    "probe": ("decode an image's principal components", "probe"),
    "invert": ("find the latents of an image", "invert"),
    "embed": ("embed images and texts with CLIP", "embed"),
    "decode": ("make images for embeddings", "decode"),
    "serve": ("serve images over HTTP, as OpenAI's client asks for them", "serve"),
    "train": ("train a stage into a model folder", "train"),
    "borrow": ("take stages over from another model, without training", "borrow"),
    "tune": ("find how a model is sampled best, and note it in its folder", "tune"),
    "evaluate": ("measure a model", "evaluate"),
    "info": ("describe a model folder, or say how an image was made", "info"),
    "verify": ("say whether images were generated, by what they carry", "verify"),
    "data": ("look at captioned images: a folder, shards, the built-in world", "data"),
    "completion": ("a script for bash or zsh that completes commands and flags", "completion"),
    "doctor": ("what this machine has, and what would be used", "doctor"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0 is success, 2 a mistake in the request, 1 a fault of ours (one line says
        what), 130 and 143 that it was stopped. See docs/errors.md.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with standard_streams(), notices():
        code = exit_code(lambda: _run(words), words)
    if arguments is None:
        gc.freeze()  # the process ends: to collect torch's modules first takes half a second
    return code


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"unclip {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise ValueError(f"unknown command {shown(name)}{suggest(name, COMMANDS)}")
    module = importlib.import_module(f"unclip.interfaces.cli.commands.{COMMANDS[name][1]}")
    run: Callable[[list[str]], int] = module.run
    return run(rest)


def _help() -> str:
    rows = "\n".join(f"  {name:<10} {what}" for name, (what, _) in COMMANDS.items())
    return (
        f"unclip {__version__}: captions to CLIP image embeddings to images\n\n"
        f"usage: unclip COMMAND …\n\n{rows}\n\n"
        "unclip COMMAND --help says more; without --model, the bundled model is used."
    )
