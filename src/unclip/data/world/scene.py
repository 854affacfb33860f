"""The built-in world's vocabulary and ground truth: what a scene can hold, and what one does hold.

Everything here is data. Lengths are fractions of the image's side; layout happens on a grid of
1/64 of the side (1/128 where one object rests on another), so that every coordinate is exact in
binary floating point and a scene looks alike at any resolution.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final, Protocol

from unclip.checks import shown
from unclip.config import Between, Checked, Seed
from unclip.randomness import text_hash

RGB = tuple[int, int, int]

GRID: Final = 64  # layout cells along one side of the image

KINDS: Final = ("shapes", "emoji")
SHAPES: Final = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "diamond",
    "hexagon",
    "cross",
    "ring",
    "crescent",
    "arrow",
    "rectangle",
    "oval",
    "semicircle",
    "hourglass",
)
# The eleven basic colour terms of English (Berlin and Kay, 1969).
PALETTE: Final[dict[str, RGB]] = {
    "black": (18, 18, 20),
    "white": (248, 248, 246),
    "grey": (132, 134, 138),
    "red": (214, 28, 36),
    "orange": (246, 128, 16),
    "yellow": (250, 218, 28),
    "green": (30, 150, 62),
    "blue": (34, 86, 214),
    "purple": (124, 46, 168),
    "pink": (250, 142, 192),
    "brown": (118, 70, 34),
}
COLOURS: Final = tuple(PALETTE)
TEXTURES: Final = ("plain", "striped", "dotted")
BACKGROUNDS: Final = ("flat", "gradient", "sky and grass", "sea", "night", "room")
RELATIONS: Final = ("above", "below", "left of", "right of", "inside", "on")
STYLES: Final = ("plain", "pixelated", "pencil", "posterised")
SPLITS: Final = ("train", "held-out", "all")
# Extent of an object of each size, in 64ths of the side: 0.23-0.25, 0.33-0.36, 0.47-0.50.
EXTENTS: Final[dict[str, tuple[int, int]]] = {
    "small": (15, 16),
    "medium": (21, 23),
    "large": (30, 32),
}
SIZES: Final = tuple(EXTENTS)
MAX_OBJECTS: Final = 4
MAX_CONTRAST: Final = 8
Objects = Annotated[int, Between(1, MAX_OBJECTS)]

# What can hold a small object well inside its outline, and what has a flat top to rest on.
CONTAINERS: Final = ("circle", "square", "hexagon", "heart")
CARRIERS: Final = ("square", "rectangle", "hexagon", "hourglass")
RIDERS: Final = tuple(name for name in SHAPES if name not in ("crescent", "arrow"))


@dataclass(frozen=True)
class WorldConfig(Checked):
    """Which scenes a `World` draws. Tuples restrict the vocabulary; their default is all of it.

    `colours` are the objects' colours; backgrounds use all eleven. `language` changes the names
    of emoji only: the sentence around them, and the names of shapes, stay English. With
    `contrast` above 1, each run of that many consecutive indices shows one scene in variants
    that a detail tells apart, each with a caption of its own: hard negatives for CLIP. The detail
    is one attribute, or whose colour is which and who is where.
    """

    kinds: tuple[str, ...] = ("shapes",)  # kinds of objects: shapes, emoji
    size: Annotated[int, Between(32, 1024)] = 64  # pixels of a side
    seed: Seed = 0  # seed of the scenes
    split: str = "train"  # split: train, held-out or all
    min_objects: Objects = 1  # fewest objects in a scene
    max_objects: Objects = MAX_OBJECTS  # most objects in a scene
    shapes: tuple[str, ...] = SHAPES  # names of shapes
    sizes: tuple[str, ...] = SIZES  # sizes of objects
    colours: tuple[str, ...] = COLOURS  # colours of objects
    textures: tuple[str, ...] = TEXTURES  # textures of objects
    backgrounds: tuple[str, ...] = BACKGROUNDS  # kinds of backgrounds
    relations: tuple[str, ...] = RELATIONS  # relations between two objects
    styles: tuple[str, ...] = STYLES  # styles of whole images
    language: str = "en"  # language of the names of emoji
    # scenes in a row that a detail tells apart; 1: none
    contrast: Annotated[int, Between(1, MAX_CONTRAST)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        vocabulary = {
            "kinds": KINDS,
            "shapes": SHAPES,
            "sizes": SIZES,
            "colours": COLOURS,
            "textures": TEXTURES,
            "backgrounds": BACKGROUNDS,
            "relations": RELATIONS,
            "styles": STYLES,
        }
        for field, known in vocabulary.items():
            _check_names(field, getattr(self, field), known, may_be_empty=field == "relations")
        if self.split not in SPLITS:
            raise ValueError(f"split is {shown(self.split)}; choose one of {', '.join(SPLITS)}")
        if self.min_objects > self.max_objects:
            raise ValueError(
                f"min_objects ({self.min_objects}) is above max_objects ({self.max_objects}); "
                "lower one or raise the other"
            )
        if not self.language:
            raise ValueError("language is empty; give a code such as 'en' or 'de'")

    def check_undecided(self, name: str, instead: str) -> None:
        """Refuse a size or a split where something else decides them.

        Args:
            name: how the sentence calls this configuration.
            instead: what decides them, for the sentence.
        """
        known = WorldConfig()
        if (self.size, self.split) != (known.size, known.split):
            raise ValueError(f"{name}.size and {name}.split decide nothing here: {instead}")


def _check_names(
    field: str, names: tuple[str, ...], known: tuple[str, ...], may_be_empty: bool
) -> None:
    choose = f"choose from {', '.join(known)}"
    if not names and not may_be_empty:
        raise ValueError(f"{field} is empty; {choose}")
    for name in names:
        if name not in known:
            raise ValueError(
                f"{field} holds {shown(name)}, which this world does not know; {choose}"
            )
    if len(set(names)) != len(names):
        raise ValueError(f"{field} names the same thing twice: {shown(', '.join(names))}")


@dataclass(frozen=True, slots=True)
class Object:
    """One thing in a scene; `x`, `y` is the centre of its square box and `extent` the box's side.

    `colour` is the name and `rgb` the jittered value that was drawn; `accent` colours the stripes
    or dots. Emoji carry no colour: `colour` is "" and `texture` is "plain". `size_named` says
    whether the scene's caption gives this object's size.
    """

    kind: str  # "shape" or "emoji"
    name: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    extent: float
    rgb: RGB = (0, 0, 0)
    accent: RGB = (0, 0, 0)
    size_named: bool = False


@dataclass(frozen=True, slots=True)
class Background:
    """What is behind the objects: `colours` has one name if flat, two if a gradient, else none.

    A gradient runs from the first colour to the second, downwards where `variant` is even and to
    the right where it is odd; the painted backgrounds come in a few variants each.
    """

    kind: str
    colours: tuple[str, ...] = ()
    rgbs: tuple[RGB, ...] = ()
    variant: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene's ground truth and its caption; `World.render` turns it into pixels.

    `relation` holds between `objects[0]` and `objects[1]`, in this order ("above": the first is
    above the second). `counted` scenes hold equal objects that the caption counts. The caption
    may leave out the background (`background_named`) and sizes (`Object.size_named`);
    `plain_caption` is one fixed wording that says all.
    """

    objects: tuple[Object, ...]
    background: Background
    relation: str | None
    style: str
    caption: str
    plain_caption: str
    counted: bool
    background_named: bool
    index: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """The scene as plain JSON-ready data."""
        data = asdict(self)
        data["objects"] = [dict(entry) for entry in data["objects"]]
        return data


# The salts were chosen so that the held-out combinations spread evenly: every shape and every
# colour keeps most of its combinations for training.
_ATTRIBUTE_SALT: Final = 88
_PAIR_SALT: Final = 759
_HOLD_ONE_IN: Final = 10


def is_held_out_attribute(shape: str, colour: str) -> bool:
    """Whether this (shape, colour) pair is kept out of training; the same for every seed."""
    return text_hash(f"{_ATTRIBUTE_SALT}/{shape}/{colour}") % _HOLD_ONE_IN == 0


def is_held_out_pair(first: str, second: str) -> bool:
    """Whether two things are kept from sharing a training scene; order does not matter."""
    if first == second:
        return False
    low, high = sorted((first, second))
    return text_hash(f"{_PAIR_SALT}/{low}/{high}") % _HOLD_ONE_IN == 0


class Described(Protocol):
    """What the held-out rule looks at: an `Object`, or the content of one before it has a place."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def colour(self) -> str: ...


def is_held_out(things: Sequence[Described]) -> bool:
    """Whether things seen together hold a combination that training scenes never show."""
    for place, thing in enumerate(things):
        if thing.kind == "shape" and is_held_out_attribute(thing.name, thing.colour):
            return True
        if any(is_held_out_pair(thing.name, other.name) for other in things[:place]):
            return True
    return False
