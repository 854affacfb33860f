"""Prompts and numbers of images as callers give them, checked before anything is computed."""

import re
from collections.abc import Sequence
from typing import Any

from unclip.checks import listed, of_kind, shown, whole_number
from unclip.diffusion.prediction import Noise
from unclip.stages.conditioning import TextCondition

MOST_IMAGES = 1000  # of one call: more is a mistake, or a loop that should write as it goes
MOST_CHARACTERS = 10_000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def check_prompts(
    prompt: str | Sequence[str], empty: bool = False, name: str = "prompt"
) -> list[str]:
    """A list of usable prompts, or a ValueError that says what is wrong with one.

    Args:
        empty: whether the empty one is usable, as where it means no caption.
        name: how sentences call it.
    """
    prompts: list[str] = listed(prompt)
    if not prompts:
        raise ValueError("there is no prompt: say what the image should show")
    for text in prompts:
        of_kind(text, str, f"a {name}", "a string")
        if not (empty or text.strip()):
            raise ValueError(f"the {name} is empty: say what the image should show")
        if len(text) > MOST_CHARACTERS:
            raise ValueError(
                f"the {name} has {len(text):,} characters; the limit is {MOST_CHARACTERS:,}"
            )
        control = _CONTROL.search(text)
        if control:
            raise ValueError(
                f"the {name} holds the control character U+{ord(control[0]):04X}; remove it"
            )
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise ValueError(f"the {name} is not valid Unicode text")
    return list(map(str, prompts))


def check_prompt(prompt: str, empty: bool = False) -> str:
    """The prompt of a call that takes a single one."""
    return check_prompts([prompt], empty)[0]


def check_count(per_prompt: int, prompts: int) -> int:
    """The number of images per prompt, if it is sensible."""
    per_prompt = whole_number(per_prompt, "the number of images")
    if per_prompt < 1:
        raise ValueError(f"{shown(per_prompt)} images were asked for; ask for at least 1")
    if per_prompt * prompts > MOST_IMAGES:
        wanted = f"{per_prompt * prompts:,}" if per_prompt < 10**15 else shown(per_prompt)
        raise ValueError(f"{wanted} images were asked for at once; the limit is {MOST_IMAGES:,}")
    return per_prompt


def check_stage(text: TextCondition, noise: Noise, callback: Any) -> None:
    """Refuse what no stage can be sampled with."""
    of_kind(text, TextCondition, "text", "encoded captions")
    for function, name in ((noise, "noise"), (callback, "callback")):
        if not callable(function) and not (function is None and name == "callback"):
            raise ValueError(f"{name} must be a function, not {type(function).__name__}")
