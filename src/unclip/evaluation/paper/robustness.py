"""(i) Robustness to wording: synonyms, word order, negation, spelling, unseen words.

The paper measures nothing of the kind; its readers do. Scenes of one object, whose captions are
worded otherwise while the scene that they ask for stays.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from unclip.data.world.scene import SHAPES, Scene
from unclip.evaluation.intervals import Rate
from unclip.evaluation.paper.lab import Ask, Lab
from unclip.evaluation.paper.models import BUNDLED, GLIDE
from unclip.evaluation.paper.study import Cell, Row, Study, having, number, said
from unclip.evaluation.studies.edits import score_kept, single
from unclip.randomness import Draws

_ORDER: Final = 94  # key of the streams that words are shuffled and chosen by
_NAMES: Final = {BUNDLED: "unCLIP", GLIDE: "GLIDE"}
_KNOWN: Final = {"circle": "disc", "diamond": "rhombus", "oval": "ellipse", "cross": "plus sign",
                 "semicircle": "half circle", "crescent": "crescent moon", "grey": "gray",
                 "purple": "violet"}  # fmt: skip
_UNSEEN_SHAPES: Final = {"circle": "ball", "square": "box", "triangle": "pyramid",
                         "star": "asterisk",
                         "rectangle": "brick", "diamond": "lozenge", "ring": "hoop", "oval": "egg",
                         "cross": "crucifix", "crescent": "banana", "arrow": "pointer"}  # fmt: skip
_UNSEEN_COLOURS: Final = {"red": "crimson", "blue": "azure", "green": "emerald", "pink": "rose",
                          "yellow": "golden", "brown": "chocolate", "purple": "lilac",
                          "orange": "tangerine", "white": "snowy", "black": "ebony",
                          "grey": "silver"}  # fmt: skip


def _plain(caption: str, scene: Scene) -> str:
    return caption


def _replaced(words: dict[str, str]) -> Callable[[str, Scene], str]:
    """The object's words by others."""

    def reword(caption: str, scene: Scene) -> str:
        (thing,) = scene.objects
        old = f"{thing.colour} {thing.name}"
        new = f"{words.get(thing.colour, thing.colour)} {words.get(thing.name, thing.name)}"
        return caption.replace(old, new, 1)

    return reword


def _fronted(caption: str, scene: Scene) -> str:
    (thing,) = scene.objects
    head, _, tail = caption.partition(f"{thing.colour} {thing.name} ")
    return f"{tail}, {head}{thing.colour} {thing.name}"


def _noun_first(caption: str, scene: Scene) -> str:
    (thing,) = scene.objects
    return caption.replace(
        f"{thing.colour} {thing.name}", f"{thing.name} that is {thing.colour}", 1
    )


def _shuffled(caption: str, scene: Scene) -> str:
    draws, words = Draws(_ORDER, scene.index), caption.split()
    return " ".join(words.pop(draws.below(len(words))) for _ in range(len(words)))


def _misspelt(caption: str, scene: Scene) -> str:
    (thing,) = scene.objects
    k = 1 + Draws(_ORDER, scene.index).below(len(thing.name) - 2)
    wrong = thing.name[:k] + thing.name[k + 1] + thing.name[k] + thing.name[k + 2 :]
    return caption.replace(thing.name, wrong, 1)


def _without(caption: str, scene: Scene) -> str:
    return f"{caption}, without a {unwanted(scene)}"


def _no_caption(caption: str, scene: Scene) -> str:
    return f"no {unwanted(scene)}, but {caption}"


def _padded(caption: str, scene: Scene) -> str:
    return f"a marvellous photograph of {caption}, trending"


def unwanted(scene: Scene) -> str:
    """A shape that is not in the scene, which a caption says not to draw."""
    others = [name for name in SHAPES if name != scene.objects[0].name]
    return Draws(_ORDER + 1, scene.index).pick(others)


WORDINGS: Final[dict[str, Callable[[str, Scene], str]]] = {
    "plain": _plain,
    "synonyms from training": _replaced(_KNOWN),
    "unseen shape words": _replaced(_UNSEEN_SHAPES),
    "unseen colour words": _replaced(_UNSEEN_COLOURS),
    "background first": _fronted,
    "noun before adjective": _noun_first,
    "words shuffled": _shuffled,
    "a misspelt shape": _misspelt,
    "unseen words around": _padded,
    "without a …": _without,
    "no …, but": _no_caption,
}


def cells(lab: Lab) -> list[Cell]:
    """Each wording of the scenes that it changes, of unCLIP and of GLIDE."""
    scenes = lab.paint(single(lab.config), range(max(16, lab.n // 4)))[0]
    found = []
    for name, reword in WORDINGS.items():
        texts = [reword(scene.plain_caption, scene) for scene in scenes]
        kept = [i for i, scene in enumerate(scenes)
                if name == "plain" or texts[i] != scene.plain_caption]  # fmt: skip
        if not kept:
            continue
        some, captions = [scenes[i] for i in kept], tuple(texts[i] for i in kept)
        for model, called in _NAMES.items():
            if lab.models.has(model):
                ask = Ask(captions, model, settings=lab.settings(), stream=5)
                run = partial(_measure, lab, ask, some, "…" in name)
                found.append(Cell({"wording": name, "model": called}, run, [ask]))
    return found


def _measure(lab: Lab, ask: Ask, scenes: Sequence[Scene], negates: bool) -> dict[str, Any]:
    seen = lab.draw(ask)
    values: dict[str, Any] = score_kept(seen.found, scenes)
    if negates:
        there = [any(one.name == unwanted(scene) for one in found.objects)
                 for found, scene in zip(seen.found, scenes, strict=True)]  # fmt: skip
        values["unwanted is there"] = Rate(sum(there), len(there))
    return values


def verdict(rows: Sequence[Row]) -> str:
    """What each wording costs."""
    ours = having(rows, model="unCLIP")
    plain = having(ours, wording="plain")
    if not plain:
        return "Not measured yet."
    base = number(plain[0], "all")
    others = [row for row in ours if row["setting"]["wording"] != "plain"]
    order = sorted(others, key=lambda row: number(row, "all"))
    listed = "; ".join(f"{row['setting']['wording']} {said(row, 'all', True)}" for row in order)
    told = (
        f"The plain wording is right in {said(plain[0], 'all', True)}; otherwise, worst first: "
        f"{listed}."
    )
    negated = [row for row in others if "unwanted is there" in row["values"]]
    if negated:
        rates = ", ".join(f"{row['setting']['wording']} {number(row, 'unwanted is there'):.0%}"
                          for row in negated)  # fmt: skip
        told += f" What a caption says not to draw is there in: {rates}."
    lost = [row for row in others if number(row, "all") < base / 2]
    return told + (
        " A CLIP of this size knows the words of its captions and no others, and no captions of "
        "its training negate: it cannot know better. The paper's CLIP has read the web, so that "
        "its synonyms are known; it makes no claim of negation."
        if lost
        else " None of them costs half of the scenes."
    )


STUDY: Final = Study(
    "i",
    "robustness",
    "Wordings",
    "Scenes of one object, whose captions are worded otherwise: how often the judge finds the "
    "scene's object, colour, background and all three, and of negations how often what was not to "
    "be drawn is there.",
    "Not measured in the paper.",
    ("object", "colour", "background", "all", "unwanted is there"),
    cells,
    verdict,
)
