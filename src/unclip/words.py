"""The words of the captions that a model was trained with; one that it never saw names nothing.

They lie in the model folder as `tokenizer/words.txt`, one a line, the most frequent first. Models
of others have no such file: then nothing is known, and nothing said.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from unclip.checks import shown
from unclip.files import read_text, write_text

FILE = "words.txt"
MOST = 2**16
"""Words that are kept; what is rarer was hardly seen."""
_COUNTED = 2**20  # different words that are counted, of captions that are no language
_LONGEST = 64  # characters of a word
_SHOWN = 5  # words that a sentence names
_MAX_FILE = MOST * 4 * (_LONGEST + 1)  # bytes
# Runs of Latin, Greek and Cyrillic letters, one alone being no word ("s" of "dog's"); of other
# scripts, many of which set no spaces, every letter; and every digit.
_LETTERS = r"A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u052f\u1e00-\u1fff"
_WORD = re.compile(rf"[{_LETTERS}]{{2,}}|[^\W_{_LETTERS}]")


def words_in(text: str) -> list[str]:
    """The different words of a text in order, in lower case; punctuation and symbols are none."""
    found = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    return list(dict.fromkeys(word for word in found if len(word) <= _LONGEST))


def vocabulary(captions: Iterable[str]) -> tuple[str, ...]:
    """The words of captions, the most frequent first, at most `MOST` of them."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(words_in(caption))
        if len(counts) > _COUNTED:
            break
    return tuple(word for word, _ in counts.most_common(MOST))


def unknown_words(words: Sequence[str]) -> str:
    """What to tell somebody whose prompt holds these."""
    named = ", ".join(map(shown, words[:_SHOWN])) + (", …" if len(words) > _SHOWN else "")
    return (
        f"no caption that this model was trained with has the word{'s' * (len(words) > 1)} "
        f"{named}: what that stands for may be missing in the image, or a blur"
    )


def merged(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    """Two vocabularies as one, at most `MOST` words of it."""
    return tuple(dict.fromkeys((*first, *second)))[:MOST]


def read_words(folder: Path) -> tuple[str, ...] | None:
    """The words that the tokenizer's folder notes; None if it notes none.

    Raises:
        ValueError: the file is no text, or larger than it can be.
    """
    if not (folder / FILE).is_file():
        return None
    return tuple(read_text(folder / FILE, _MAX_FILE).split())


def write_words(folder: Path, words: Iterable[str]) -> None:
    """The inverse of `read_words`."""
    write_text(folder / FILE, "".join(f"{word}\n" for word in words))
