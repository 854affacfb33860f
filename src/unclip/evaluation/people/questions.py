"""What people are asked of two models' images, as in the paper's section 5.2.

    photorealism   which of two images looks more like a photo          images of one caption
    caption        which of two images fits the caption better          images of one caption
    diversity      which of two 4 × 4 grids is more varied              16 and 16 of one caption

Captions, images, sides and order follow from the seed alone. Questions come in rounds: each kind
and each two models once a round, so that whoever stops early has answered as many of each.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar, get_args

from unclip.files import read_bytes
from unclip.randomness import Draws, text_hash

if TYPE_CHECKING:
    from unclip.evaluation.people.folders import Picture, Shown

Kind = Literal["photorealism", "caption", "diversity"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
GRID: Final = 16
"""Images of a side where diversity is asked: 4 × 4."""
Side = tuple[Path, ...]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Question:
    """One comparison, whoever answers it.

    Attributes:
        caption: of the images; "" where they have none.
        models: names of the two.
        images: of each, one or `GRID`.
        key: changes with what is asked and with a single byte of the images.
    """

    kind: Kind
    caption: str
    models: tuple[str, str]
    images: tuple[Side, Side]
    key: str


@dataclass(frozen=True)
class Seated:
    """A question as it is shown to somebody: the second model comes first if it is swapped."""

    question: Question
    swapped: bool

    @property
    def sides(self) -> tuple[Side, Side]:
        """The images that are shown first, and second."""
        first, second = self.question.images
        return (second, first) if self.swapped else (first, second)

    def preferred(self, choice: str) -> str:
        """The model of "first" or "second"; "" where it is "unsure"."""
        if choice == "unsure":
            return ""
        return self.question.models[(choice == "second") != self.swapped]


def questions_of(
    models: "Sequence[Shown]", kinds: Sequence[Kind], n: int, seed: int
) -> tuple[list[Question], list[str]]:
    """At most `n` questions of each kind for each two models, and what cannot be asked and why.

    They are the same whatever order the models are named in.

    Args:
        kinds: if there is none, those that the images allow.

    Raises:
        ValueError: a kind that is asked for needs what the images do not have; nothing can be
            asked at all; all images that would be compared are the same.
    """
    found: list[Question] = []
    lacking: list[str] = []
    digests = _Digests()
    for kind in kinds or KINDS:
        for one, other in combinations(sorted(models, key=lambda model: model.name), 2):
            pool = _pool(kind, one, other, seed)
            if not pool:
                lacking.append(f"{kind} of {one.name} and {other.name}: {_NEEDS[kind]}")
            for first, second in pool[:n]:
                found.append(_question(kind, (one, other), (first, second), digests))
    if lacking and (kinds or not found):
        raise ValueError(f"there is nothing to ask about {lacking[0]}")
    if all(digests.same(*question.images) for question in found):
        raise ValueError("the folders hold the same images, so there is nothing to choose")
    return found, lacking


_NEEDS: Final[dict[Kind, str]] = {
    "photorealism": "it needs an image on either side",
    "caption": "no caption has an image on both sides (a .txt beside it, or unclip's own notes)",
    "diversity": f"no caption has {GRID} images on both sides (unclip generate -n {GRID})",
}


def _pool(
    kind: Kind, one: "Shown", other: "Shown", seed: int
) -> "list[tuple[list[Picture], list[Picture]]]":
    """All that can be asked, shuffled; a caption comes again only after every other one."""
    size = GRID if kind == "diversity" else 1
    shared = one.by_caption.keys() & other.by_caption.keys()
    captions = sorted(shared, key=lambda text: (text_hash(f"{seed} {text}"), text))
    rows = [
        list(zip(_parts(one.by_caption[text], size), _parts(other.by_caption[text], size)))  # noqa: B905
        for text in captions
    ]
    if kind == "photorealism" and not captions:  # nothing says which belong together
        rows = [
            [([a], [b])]
            for a, b in zip(_shuffled(one.pictures, seed, 1), _shuffled(other.pictures, seed, 2))  # noqa: B905
        ]
    return [pair for turn in zip_longest(*rows) for pair in turn if pair is not None]


def _parts(pictures: "list[Picture]", size: int) -> "list[list[Picture]]":
    """Whole groups of `size`."""
    return [pictures[i : i + size] for i in range(0, len(pictures) - size + 1, size)]


def _question(
    kind: Kind,
    models: "tuple[Shown, Shown]",
    sides: "tuple[list[Picture], list[Picture]]",
    digests: "_Digests",
) -> Question:
    files = (tuple(one.file for one in sides[0]), tuple(one.file for one in sides[1]))
    caption = sides[0][0].caption
    if caption not in models[1].by_caption:
        caption = ""
    names = (models[0].name, models[1].name)
    facts = [kind, caption, names, [[digests(file) for file in side] for side in files]]
    key = hashlib.sha256(json.dumps(facts).encode("utf-8", "surrogatepass")).hexdigest()[:24]
    return Question(kind, caption, names, files, key)


class _Digests:
    """Of files, each read once."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def __call__(self, file: Path) -> str:
        if file not in self._known:
            self._known[file] = hashlib.sha256(read_bytes(file, 2**30)).hexdigest()
        return self._known[file]

    def same(self, one: Side, other: Side) -> bool:
        return [self(file) for file in one] == [self(file) for file in other]


def seat(questions: Sequence[Question], seed: int, rater: str) -> list[Seated]:
    """The questions in the order, and with the sides, in which this person is shown them."""
    groups: dict[tuple[str, tuple[str, str]], list[Question]] = {}
    for question in questions:
        groups.setdefault((question.kind, question.models), []).append(question)
    draws = Draws(seed, text_hash(rater))
    mixed = [_mixed(group, draws) for group in groups.values()]
    ordered = [
        question
        for turn in zip_longest(*mixed)
        for question in _mixed([one for one in turn if one is not None], draws)
    ]
    return [Seated(question, draws.chance(50)) for question in ordered]


def _shuffled(items: Sequence[Item], *keys: int) -> list[Item]:
    return _mixed(items, Draws(*keys))


def _mixed(items: Sequence[Item], draws: Draws) -> list[Item]:
    """Fisher and Yates."""
    mixed = list(items)
    for i in range(len(mixed) - 1, 0, -1):
        j = draws.below(i + 1)
        mixed[i], mixed[j] = mixed[j], mixed[i]
    return mixed
