"""Captions of the built-in world: a small grammar that only says what is true and clear.

Colour and name of every object are always said, the style whenever it is not plain, the
background in 85 % of captions, sizes in some. The same draft and stream give the same sentence;
drafts that differ in one attribute differ, under one stream, in that attribute's words only.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from unclip.data.world.compose import Draft, Thing
from unclip.data.world.scene import Background, WorldConfig
from unclip.randomness import Draws

BACKGROUND_PERCENT: Final = 85
SIZE_PERCENT: Final[dict[str, int]] = {"small": 40, "medium": 10, "large": 40}

_SHAPE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "circle": ("circle", "circle", "disc"),
    "diamond": ("diamond", "diamond", "rhombus"),
    "cross": ("cross", "cross", "plus sign"),
    "oval": ("oval", "oval", "ellipse"),
    "crescent": ("crescent", "crescent", "crescent moon"),
    "semicircle": ("semicircle", "semicircle", "half circle"),
}
_COLOUR_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "grey": ("grey", "gray"),
    "purple": ("purple", "purple", "violet"),
}
_SIZE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium-sized", "middle-sized"),
    "large": ("large", "big", "huge"),
}
_TEXTURE_NOUNS: Final = {"striped": "stripes", "dotted": "dots"}
_RELATION_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "above": ("above", "above", "over"),
    "below": ("below", "under", "beneath"),
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "inside": ("inside", "inside", "within"),
    "on": ("on", "on top of", "resting on"),
}
_INVERSE: Final = {
    "above": "below",
    "below": "above",
    "left of": "right of",
    "right of": "left of",
}
_NUMBERS: Final = {2: ("two", "two", "2"), 3: ("three", "three", "3"), 4: ("four", "four", "4")}
_STYLE_OPENINGS: Final[dict[str, tuple[str, ...]]] = {
    "plain": ("a picture of ", "an image of "),
    "pixelated": ("a pixelated picture of ", "pixel art of "),
    "pencil": ("a pencil drawing of ", "a pencil sketch of "),
    "posterised": ("a posterised picture of ", "a posterized image of "),
}
_STYLE_ENDINGS: Final[dict[str, tuple[str, ...]]] = {
    "pixelated": (", pixelated", ", as pixel art"),
    "pencil": (", drawn in pencil", ", as a pencil drawing"),
    "posterised": (", posterised", ", in posterised style"),
}
_BACKGROUND_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "flat": ("on a {0} background", "on a {0} background", "against a {0} background"),
    "gradient": (
        "on a {0} to {1} gradient",
        "on a background fading from {0} to {1}",
        "against a gradient from {0} to {1}",
    ),
    "sky and grass": (
        "in front of sky and grass",
        "with sky and grass in the background",
        "outdoors with grass and sky",
    ),
    "sea": ("in front of the sea", "by the sea", "with the sea in the background"),
    "night": ("at night", "against the night sky", "in front of a night sky"),
    "room": ("in a room", "indoors", "in front of the wall of a room"),
}
_PLAIN_BACKGROUND: Final = {
    "flat": "on a {0} background",
    "gradient": "on a {0} to {1} gradient",
    "sky and grass": "in front of sky and grass",
    "sea": "in front of the sea",
    "night": "at night",
    "room": "in a room",
}
_VOWEL_SOUNDS: Final = ("a", "e", "i", "o", "u", "hour", "x-ray")
_CONSONANT_SOUNDS: Final = ("one", "uni", "eu", "ewe")
_IRREGULAR: Final = {
    "man": "men",
    "person": "people",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "mouse": "mice",
    "goose": "geese",
    "knife": "knives",
    "leaf": "leaves",
    "scarf": "scarves",
    "wolf": "wolves",
    "tomato": "tomatoes",
    "potato": "potatoes",
    "mango": "mangoes",
    "fish": "fish",
    "deer": "deer",
    "bison": "bison",
    "shrimp": "shrimp",
    "squid": "squid",
}
# Names with a clause inside have their noun before it, not at the end.
_CLAUSES: Final = (
    " with ",
    " of ",
    " in ",
    " on ",
    " and ",
    " without ",
    " behind ",
    " for ",
    " showing ",
)


def article(words: str) -> str:
    """The words with "a" or "an" before them."""
    vowel = words.startswith(_VOWEL_SOUNDS) and not words.startswith(_CONSONANT_SOUNDS)
    return f"an {words}" if vowel else f"a {words}"


def plural(words: str) -> str:
    """The English plural of words whose last one is the noun."""
    for ending, many in _IRREGULAR.items():
        if words.endswith(ending):
            return words.removesuffix(ending) + many
    if words.endswith(("s", "sh", "ch", "x")):
        return f"{words}es"
    if words.endswith("y") and words[-2:-1] not in "aeiou":
        return f"{words[:-1]}ies"
    return f"{words}s"


def is_many(name: str) -> bool:
    """Whether an emoji's English name speaks of several things already."""
    head = min((name.split(clause)[0] for clause in _CLAUSES), key=len)
    return head.split(" ")[0] in ("people", "men", "women") or (
        head.endswith("s") and not head.endswith(("ss", "us", "is", "os"))
    )


def _has_plural(name: str) -> bool:
    """Whether `plural` can count an emoji's English name."""
    words = name.split(" ")
    return not (
        is_many(name)
        or any(clause in name for clause in _CLAUSES)
        or words[-1].endswith(("ing", "ed", "off"))
        or words[-1] in ("done", "up", "down", "away", "left", "right", "struck", "ox", "skis")
        or words[0] in ("person", "backhand", "face", "globe", "magnifying", "page", "index")
    )


def subjects(
    config: WorldConfig, relations: tuple[str, ...], emoji: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """What captions of such a world can ask for, by kind, in its plain wording.

    Args:
        relations: those that its objects can stand in.
        emoji: their names in the captions' language.
    """
    shaped = "shapes" in config.kinds
    most = config.max_objects
    few = str(most) if config.min_objects == most else f"{config.min_objects} to {most}"
    named = {
        "shapes": config.shapes if shaped else (),
        "emoji": tuple(emoji),
        "colours": config.colours if shaped else (),
        "backgrounds": tuple(
            _PLAIN_BACKGROUND[kind].format("blue", "red") for kind in config.backgrounds
        ),
        "sizes": tuple(_SIZE_WORDS[size][0] for size in config.sizes),
        "textures": tuple(name for name in config.textures if name != "plain" and shaped),
        "styles": tuple(name for name in config.styles if name != "plain"),
        "objects": (f"{few} in an image",),
        "places": relations if most > 1 else (),
    }
    return {kind: names for kind, names in named.items() if names}


class Grammar:
    """Writes captions. `emoji_words` maps English names of emoji to the language's words."""

    def __init__(
        self, language: str = "en", emoji_words: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.english = language == "en"
        self.emoji_words = emoji_words

    def caption(self, draft: Draft, stream: Draws) -> tuple[str, tuple[bool, ...], bool]:
        """A sentence; for each thing whether it gives its size; whether it names the background."""
        things = draft.things[:1] if draft.counted else draft.things
        named = tuple(stream.chance(SIZE_PERCENT[thing.size]) for thing in things)
        shows_background = stream.chance(BACKGROUND_PERCENT) or draft.must_name == "background"
        background = _background_words(draft.background, stream) if shows_background else ""
        opens, roll = stream.chance(50), stream.below(100)
        opening = stream.pick(_STYLE_OPENINGS[draft.style])
        ending = stream.pick(_STYLE_ENDINGS.get(draft.style, ("",)))
        opening, ending = (opening, "") if opens else ("", ending)
        if draft.style == "plain" and roll >= 30:
            opening = ""
        fronted = bool(background) and not opening and stream.chance(20)
        body = self._body(draft, things, named, stream, may_front=not (fronted or opening))
        if draft.counted:
            named = named * len(draft.things)
        if fronted:
            return f"{background}, {body}{ending}", named, shows_background
        tail = f" {background}" if background else ""
        return f"{opening}{body}{tail}{ending}", named, shows_background

    def plain_caption(self, draft: Draft) -> str:
        """The one fixed wording that says everything about the scene, except medium sizes."""
        phrases = [
            self._phrase(thing, _plain_words(thing), article_too=not draft.counted)
            for thing in (draft.things[:1] if draft.counted else draft.things)
        ]
        if draft.counted:
            body = self._counted(draft.things[0], phrases[0], _NUMBERS[len(draft.things)][0])
        elif draft.relation:
            body = f"{phrases[0]} {draft.relation} {phrases[1]}"
        else:
            body = _listed(phrases)
        opening = "" if draft.style == "plain" else _STYLE_OPENINGS[draft.style][0]
        words = _PLAIN_BACKGROUND[draft.background.kind].format(*draft.background.colours)
        return f"{opening}{body} {_with_articles(words)}"

    def _body(
        self,
        draft: Draft,
        things: tuple[Thing, ...],
        named: tuple[bool, ...],
        stream: Draws,
        may_front: bool,
    ) -> str:
        phrases = [
            self._phrase(
                thing,
                _words(thing, says_size, stream, alone=len(things) == 1),
                article_too=not draft.counted,
            )
            for thing, says_size in zip(things, named, strict=True)
        ]
        if draft.counted:
            number = stream.pick(_NUMBERS[len(draft.things)])
            return self._counted(things[0], phrases[0], number)
        if draft.relation is None:
            if stream.chance(50):
                phrases.reverse()
            return _listed(phrases)
        return _related(draft.relation, phrases[0], phrases[1], stream, may_front)

    def _phrase(self, thing: Thing, words: Mapping[str, str], article_too: bool) -> str:
        if thing.kind == "emoji":
            name = self.emoji_words[thing.name]
            parts = f"{words['size']}{name}"
            bare = not self.english or is_many(name)
            return article(parts) if article_too and not bare else parts
        parts = "".join(words.values())
        return article(parts) if article_too else parts

    def _counted(self, thing: Thing, phrase: str, number: str) -> str:
        if thing.kind == "emoji" and (not self.english or not _has_plural(thing.name)):
            return f"{number} copies of {phrase}"
        noun, clause, rest = phrase.partition(" with ")
        return f"{number} {plural(noun)}{clause}{rest}"


def _words(thing: Thing, says_size: bool, stream: Draws, alone: bool) -> dict[str, str]:
    """The words of a noun phrase in order; always takes the same number of draws."""
    size = stream.pick(_SIZE_WORDS[thing.size])
    name = stream.pick(_SHAPE_WORDS.get(thing.name, (thing.name,)))
    colour = stream.pick(_COLOUR_WORDS.get(thing.colour, (thing.colour,)))
    order = stream.below(3)
    words = {"size": f"{size} " if says_size else ""}
    if thing.texture == "plain":
        return words | {"colour": f"{colour} ", "name": name}
    if order == 0 and alone:
        noun = _TEXTURE_NOUNS[thing.texture]
        return words | {"colour": f"{colour} ", "name": name, "texture": f" with {noun}"}
    if order == 1:
        return words | {"colour": f"{colour} ", "texture": f"{thing.texture} ", "name": name}
    return words | {"texture": f"{thing.texture} ", "colour": f"{colour} ", "name": name}


def _plain_words(thing: Thing) -> dict[str, str]:
    return {
        "size": "" if thing.size == "medium" else f"{thing.size} ",
        "texture": "" if thing.texture == "plain" else f"{thing.texture} ",
        "colour": f"{thing.colour} ",
        "name": thing.name,
    }


def _background_words(background: Background, stream: Draws) -> str:
    words = stream.pick(_BACKGROUND_WORDS[background.kind])
    names = (*background.colours, "", "")[:2]  # always two draws
    text = words.format(*(stream.pick(_COLOUR_WORDS.get(name, (name,))) for name in names))
    return _with_articles(text)


def _with_articles(text: str) -> str:
    """The background's words with "an" before orange, the one colour that starts with a vowel."""
    return text.replace(" a orange", " an orange")


def _listed(phrases: list[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _related(relation: str, first: str, second: str, stream: Draws, may_front: bool) -> str:
    """`first` stands in `relation` to `second`, said one of four ways."""
    roll = stream.below(100)
    words = stream.pick(_RELATION_WORDS[relation])
    inverse = stream.pick(_RELATION_WORDS[_INVERSE.get(relation, relation)])
    if roll < 55:
        return f"{first} {words} {second}"
    if roll < 75 and relation in _INVERSE:
        return f"{second} {inverse} {first}"
    if roll < 90 or not may_front:
        return f"{second} with {first} {words} it"
    return f"{words} {second}, {first}"
