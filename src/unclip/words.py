"""What the captions spoke of that a model was trained with; a word that none had names nothing.

The words lie in the model folder as `tokenizer/words.txt`, one a line, the most frequent first;
what they name, where the data says it, as `tokenizer/subjects.json`. Models of others have no such
files: then nothing is known, and nothing said.
"""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unclip.checks import shown
from unclip.files import MAX_CONFIG, read_json, read_text, write_json, write_text

FILE = "words.txt"
SUBJECTS = "subjects.json"
Subjects = Mapping[str, tuple[str, ...]]
"""Names by their kind, {"shapes": ("circle", …), …}."""
MOST = 2**16
"""Words that are kept; what is rarer was hardly seen."""
_COUNTED = 2**20  # different words that are counted, of captions that are no language
_LONGEST = 64  # characters of a word
_SHOWN = 5  # words that a sentence names
_SLIP = 4  # letters of a word that may be a slip: shorter ones resemble too many
_KINDS = 16  # of subjects
_LONGEST_NAME = 200  # characters of what a subject is called
_NAMED = 16  # names of a kind, or frequent words, that a line has room for
_MAX_FILE = MOST * 4 * (_LONGEST + 1)  # bytes
# Words of captions that show nothing by themselves.
_PLAIN = {
    "against", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "have", "her",
    "his", "image", "in", "into", "is", "it", "its", "of", "on", "or", "out", "over", "photo",
    "photograph", "picture", "that", "the", "their", "them", "there", "they", "this", "to", "up",
    "was", "were", "which", "while", "who", "with",
}  # fmt: skip
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


@dataclass(frozen=True)
class Vocabulary:
    """What a model's captions can speak of; `str` says it in a line.

    Attributes:
        words: those of the captions of its training, the most frequent first.
        subjects: what they name, if the data knew; else empty.
    """

    words: tuple[str, ...]
    subjects: Subjects = field(default_factory=dict)

    def __contains__(self, word: str) -> bool:
        """Whether all words of a text are known."""
        return not self.unknown(word)

    def __str__(self) -> str:
        if self.subjects:
            return "; ".join(f"{kind}: {_some(names)}" for kind, names in self.subjects.items())
        most = [word for word in self.words if word not in _PLAIN] or self.words
        return f"{len(most):,} words, most often: {_some(most)}"

    def unknown(self, text: str) -> list[str]:
        """The words of a text that no caption of the model's training had."""
        known = set(self.words)
        return [word for word in words_in(text) if word not in known]

    def unknown_in(self, captions: Iterable[str]) -> tuple[int, int, list[str]]:
        """How many captions there are, how many of them have unknown words, and the most frequent
        of those words."""
        known, total, having, counts = set(self.words), 0, 0, Counter[str]()
        for caption in captions:
            unknown = [word for word in words_in(caption) if word not in known]
            total, having = total + 1, having + bool(unknown)
            if len(counts) < _COUNTED:
                counts.update(unknown)
        return total, having, [word for word, _ in counts.most_common(_SHOWN)]

    def advice(self, words: Sequence[str]) -> str:
        """What to tell somebody whose prompt holds these unknown words."""
        named = ", ".join(map(self._named, words[:_SHOWN])) + (", …" if len(words) > _SHOWN else "")
        verb = "mean" if len(words) > 1 else "means"
        return f"{named} {verb} nothing to this model, which knows {self}"

    def _named(self, word: str) -> str:
        near = self.nearest(word)
        return shown(word) + (f" (did you mean {shown(near)}?)" if near else "")

    def nearest(self, word: str) -> str | None:
        """The known word that this may be a slip of: of the same initial, as slips mostly are."""
        likely = [
            known
            for known in self.words
            if len(word) >= _SLIP and known[0] == word[0] and abs(len(known) - len(word)) <= 1
        ]
        return next(iter(difflib.get_close_matches(word, likely, n=1, cutoff=0.75)), None)


def _some(names: Sequence[str]) -> str:
    """The first of the names."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


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


def read_subjects(folder: Path) -> Subjects:
    """What the words name, as the tokenizer's folder notes it; empty if it does not.

    Raises:
        ValueError: the file holds something else, or is larger than it can be.
    """
    path = folder / SUBJECTS
    if not path.is_file():
        return {}
    noted = read_json(path, MAX_CONFIG)
    for kind, names in noted.items():
        if not (isinstance(names, list) and names and all(map(_is_name, [kind, *names]))):
            raise ValueError(f"{path}: {shown(kind)} must be a list of names")
    if len(noted) > _KINDS:
        raise ValueError(f"{path} has {len(noted):,} kinds of subjects; at most {_KINDS} are read")
    return {kind: tuple(names) for kind, names in noted.items()}


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME


def write_subjects(folder: Path, subjects: Subjects) -> None:
    """The inverse of `read_subjects`."""
    write_json(folder / SUBJECTS, {kind: list(names) for kind, names in subjects.items()})


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """Words and subjects of a tokenizer's folder; None if it notes no words."""
    words = read_words(folder)
    return Vocabulary(words, read_subjects(folder)) if words else None
