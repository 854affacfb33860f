"""`unclip evaluate WHAT`: a model measured, as a table and as JSON."""

import importlib
from collections.abc import Callable, Sequence

from unclip.config import suggest

# name: (what it says, module in `interfaces/cli/evaluations`)
EVALUATIONS = {
    "clip": ("captions and images that are told apart: retrieval, classes, preferences", "clip"),
    "composition": ("how often images for held-out captions are right", "composition"),
    "fid": ("how far generated images are from real ones", "fid"),
    "diversity": ("how many kinds of images are made, and how many look real", "diversity"),
    "aesthetic": ("how generated images would be rated, by a probe of ratings", "aesthetic"),
    "reconstruction": ("how much of an image its embedding keeps", "reconstruction"),
    "upsampling": ("images made small and enlarged again, held against the truth", "upsampling"),
    "guidance": ("what a higher guidance scale gains and loses", "guidance"),
    "edits": ("what edits, variations and blends change and keep", "edits"),
    "memorisation": (
        "whether training images are given out, in copies or by losses",
        "memorisation",
    ),
    "pairs": ("which model's images people prefer, asked blind on a page of this machine", "pairs"),
    "inpainting": ("whether a hidden object is repainted, and the border", "inpainting"),
}


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip evaluate` say, and give the exit code."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:<14} {what}" for name, (what, _) in EVALUATIONS.items())
        print(f"usage: unclip evaluate {'|'.join(EVALUATIONS)} [--model DIR] …\n\n{rows}")
        return 0 if words else 2
    name = words.pop(0)
    if name not in EVALUATIONS:
        raise ValueError(f"unknown evaluation {name!r}{suggest(name, EVALUATIONS)}")
    module = importlib.import_module(f"unclip.interfaces.cli.evaluations.{EVALUATIONS[name][1]}")
    measure: Callable[[list[str]], int] = module.run
    return measure(words)
