"""`unclip COMMAND …`: finds the command, runs it, and turns users' mistakes into one line.

Nothing heavy is imported here: each command imports what it uses, so that help is instant.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from unclip import __version__
from unclip.config import suggest

# name: (what it does, module in this package)
COMMANDS = {
    "generate": ("make images for captions", "generate"),
    "upscale": ("make an image larger", "upscale"),
    "vary": ("make variations of images", "vary"),
    "blend": ("make images between images", "blend"),
    "edit": ("change images towards a text", "edit"),
    "inpaint": ("repaint a part of an image for a caption", "inpaint"),
    "probe": ("decode an image's principal components", "probe"),
    "invert": ("find the latents of an image", "invert"),
    "embed": ("embed images and texts with CLIP", "embed"),
    "decode": ("make images for embeddings", "decode"),
    "train": ("train a stage into a model folder", "train"),
    "evaluate": ("measure a model", "evaluate"),
    "info": ("describe a model folder, or say how an image was made", "info"),
    "data": ("look at the built-in captioned world", "world"),
    "doctor": ("what this machine has, and what would be used", "doctor"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 is success, 2 a mistake in the request (one line says which)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"unclip {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        return _refuse(f"unknown command {name!r}{suggest(name, COMMANDS)}")
    try:
        module = importlib.import_module(f"unclip.interfaces.{COMMANDS[name][1]}")
        run: Callable[[list[str]], int] = module.run
        return run(rest)
    except SystemExit as stop:  # tyro printed the help
        return int(stop.code or 0)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get("UNCLIP_TRACEBACK"):  # for finding faults of ours
            raise
        return _refuse(_sentence(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _refuse(sentence: str) -> int:
    print(f"unclip: {sentence}", file=sys.stderr)
    return 2


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _help() -> str:
    rows = "\n".join(f"  {name:<10} {what}" for name, (what, _) in COMMANDS.items())
    return (
        f"unclip {__version__}: captions to CLIP image embeddings to images\n\n"
        f"usage: unclip COMMAND …\n\n{rows}\n\n"
        "unclip COMMAND --help says more; without --model, the bundled model is used."
    )


if __name__ == "__main__":
    sys.exit(main())
