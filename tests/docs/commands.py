"""The commands and programs of a document, for tests that run them."""

import re
import shlex
from collections.abc import Iterator


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(language, body) of each fenced block, in their order."""
    yield from re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(body: str) -> list[list[str]]:
    """The words of each command of a block."""
    lines = (line.strip() for line in body.replace("\\\n", " ").splitlines())
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def smaller(words: list[str], sizes: dict[str, str]) -> list[str]:
    """The words with the flags of `sizes` that their first ones ask for; these win."""
    fits = [key for key in sizes if words[: len(key.split())] == key.split()]
    if not fits:
        return words
    more = sizes[fits[0]].split()
    kept, skip = [], False
    for word in words:
        if word in more and word.startswith("-"):
            skip = True
        elif skip:
            skip = False
        else:
            kept.append(word)
    return [*kept, *more]
