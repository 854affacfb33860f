"""What is in a scene: objects, background, relation and style, drawn at random or varied.

A `Draft` is a scene's content without places; the layout and the caption come after.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from unclip.data.world.scene import (
    CARRIERS,
    COLOURS,
    CONTAINERS,
    PALETTE,
    RGB,
    RIDERS,
    Background,
    WorldConfig,
    is_held_out,
)
from unclip.data.world.scenery import (
    MIN_CONTRAST,
    PAINTED,
    VARIANTS,
    contrast,
    surroundings,
    visible_colours,
)
from unclip.randomness import Draws

ATTEMPTS: Final = 100_000  # to draw a scene of a count that the trials found to be possible
TRIALS: Final = 1000  # to find out whether scenes of a count are possible
GROUP_ATTEMPTS: Final = 300

# How often each choice is taken, relative to the others that the config leaves.
_OBJECTS: Final = {1: 35, 2: 45, 3: 12, 4: 8}
_BACKGROUNDS: Final = {
    "flat": 40,
    "gradient": 16,
    "sky and grass": 11,
    "sea": 11,
    "night": 11,
    "room": 11,
}
_STYLES: Final = {"plain": 79, "pixelated": 7, "pencil": 7, "posterised": 7}
_TEXTURES: Final = {"plain": 76, "striped": 12, "dotted": 12}
_RELATION_PERCENT: Final = 80
_COUNT_PERCENT: Final = 50
_REBOUND_PERCENT: Final = 75  # of the contrast groups that can turn on binding or order

EDITION: Final = 2
"""Of contrast groups: a run that was trained on others must not resume on these."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An object before it has a place: its attributes by name."""

    kind: str
    name: str
    colour: str
    texture: str
    size: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A scene before it has a layout and a caption."""

    things: tuple[Thing, ...]
    background: Background
    relation: str | None
    style: str
    counted: bool
    must_name: str = ""  # "background" where a contrast group turns on it


def colours_swapped(draft: Draft) -> Draft | None:
    """The two things with each other's colour; None where that says nothing new."""
    if len(draft.things) != 2 or draft.counted:
        return None
    one, two = draft.things
    if "emoji" in (one.kind, two.kind) or one.name == two.name or one.colour == two.colour:
        return None
    things = (replace(one, colour=two.colour), replace(two, colour=one.colour))
    return replace(draft, things=things)


def order_inverted(draft: Draft) -> Draft | None:
    """The two things in each other's place; None where no relation says who is where.

    Inside and on another, the size belongs to the place: what is carried is the smaller one.
    """
    if len(draft.things) != 2 or draft.counted or draft.relation is None:
        return None
    one, two = draft.things
    if draft.relation in ("inside", "on"):
        one, two = replace(one, size=two.size), replace(two, size=one.size)
    return replace(draft, things=(two, one))


def _bag(weights: dict[str, int], chosen: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in chosen for _ in range(weights[name]))


def _only(names: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `names` that are wanted, or all of them if none is."""
    return tuple(name for name in names if name in wanted) or names


class Composer:
    """Draws drafts that a config allows.

    `emoji` are the English names that may be used, `emoji_colour` gives an emoji's mean colour.

    Raises:
        ValueError: if the config leaves no scene to draw.
    """

    def __init__(
        self,
        config: WorldConfig,
        emoji: tuple[str, ...] = (),
        emoji_colour: Callable[[str], RGB] = lambda name: (0, 0, 0),
    ) -> None:
        self.config = config
        self.emoji = emoji
        self._emoji_colour = emoji_colour
        self._styles = _bag(_STYLES, config.styles)
        self._textures = _bag(_TEXTURES, config.textures)
        self._colourings = {
            kind: self._usable_colourings(kind, COLOURS) for kind in config.backgrounds
        }
        usable = tuple(kind for kind in config.backgrounds if self._colourings[kind])
        self._backgrounds = _bag(_BACKGROUNDS, usable)
        if not self._backgrounds:
            raise ValueError(
                f"no colour of {', '.join(config.colours)} stands out on "
                f"{', '.join(config.backgrounds)}; allow more colours or more backgrounds"
            )
        self._counts = tuple(
            count
            for count, weight in _OBJECTS.items()
            if config.min_objects <= count <= config.max_objects
            and self._search(Draws(count), count, "plain", TRIALS) is not None
            for _ in range(weight)
        )
        if not self._counts:
            raise ValueError(
                f"no {config.split} scene of {config.min_objects} to {config.max_objects} "
                "object(s) can be made of these shapes, colours and backgrounds; allow more of them"
            )

    def _usable_colourings(self, kind: str, names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        options: list[tuple[str, ...]] = [()]
        if kind == "flat":
            options = [(name,) for name in names]
        elif kind == "gradient":
            options = [(one, two) for one in names for two in names if one != two]
        if kind == "gradient":  # leave several colours to choose from
            options = [option for option in options if len(visible_colours(kind, option)) >= 3]
        return tuple(option for option in options if self._visible(kind, option))

    def _visible(self, kind: str, colours: tuple[str, ...]) -> tuple[str, ...]:
        if "shapes" not in self.config.kinds:
            return COLOURS
        return tuple(c for c in visible_colours(kind, colours) if c in self.config.colours)

    def draw(self, stream: Draws) -> Draft:
        """A random draft of this config's split."""
        style = stream.pick(self._styles)
        count = stream.pick(self._counts)
        if style == "pixelated" and self._counts[0] == 1:
            count = 1  # blocks of 1/16 of the side: only a large object keeps its shape
        draft = self._search(stream, count, style, ATTEMPTS)
        assert draft is not None, "the constructor found a scene of this count"
        return draft

    def _search(self, stream: Draws, count: int, style: str, attempts: int) -> Draft | None:
        for _ in range(attempts):
            draft = self._attempt(stream, count, style)
            if self.admits(draft):
                return draft
        return None

    def admits(self, draft: Draft) -> bool:
        """Whether the draft is of the config's split and every object in it can be made out."""
        config, things = self.config, draft.things
        if config.split != "all" and is_held_out(things) != (config.split == "held-out"):
            return False
        visible = self._visible(draft.background.kind, draft.background.colours)
        if any(thing.kind == "shape" and thing.colour not in visible for thing in things):
            return False
        around = surroundings(draft.background.kind, draft.background.colours)
        if any(thing.kind == "emoji" and not self._shows(thing, around) for thing in things):
            return False
        if draft.counted:
            return True
        keys = {(thing.name, thing.colour) for thing in things}
        if len(keys) < len(things):
            return False
        return draft.relation not in ("inside", "on") or self._fits_closely(draft)

    def _shows(self, thing: Thing, around: Iterable[RGB]) -> bool:
        """Whether a thing stands out from the colours around it."""
        if thing.kind == "emoji":  # many colours: the mean need not differ as much
            colour = self._emoji_colour(thing.name)
            return all(contrast(colour, other) >= MIN_CONTRAST // 3 for other in around)
        return all(contrast(PALETTE[thing.colour], other) >= MIN_CONTRAST for other in around)

    def _fits_closely(self, draft: Draft) -> bool:
        """Whether the first thing can be inside, or rest on, the second."""
        first, second = draft.things
        if second.kind == "shape" and not self._shows(first, (PALETTE[second.colour],)):
            return False
        if draft.relation == "inside":
            return second.kind == "shape" and second.name in CONTAINERS
        return (second.kind == "emoji" or second.name in CARRIERS) and (
            first.kind == "emoji" or first.name in RIDERS
        )

    def _attempt(self, stream: Draws, count: int, style: str) -> Draft:
        background = self._background(stream)
        relation = None
        if count == 2 and stream.chance(_RELATION_PERCENT):
            relation = stream.pick(self.relations) if self.relations else None
        counted = count > 1 and relation is None and stream.chance(_COUNT_PERCENT)
        things = self._things(stream, background, count, relation, style, counted)
        return Draft(things, background, relation, style, counted)

    def again(self, draft: Draft, stream: Draws, *, background: bool) -> Draft:
        """The same things in the same relation, with sizes and, if asked for, a background drawn
        anew: each as often as this world draws it around these things.

        By rejection: all but their names is drawn, until their colours and textures come out too.
        What this world never draws by itself, as stripes on a small thing that a contrast group
        made of a large one, stays as it is.
        """
        looks = [(thing.kind, thing.colour, thing.texture) for thing in draft.things]
        for _ in range(ATTEMPTS):
            behind = self._background(stream) if background else draft.background
            behind = replace(behind, variant=stream.below(VARIANTS))
            drawn = self._things(
                stream, behind, len(draft.things), draft.relation, draft.style, draft.counted
            )
            if looks != [(thing.kind, thing.colour, thing.texture) for thing in drawn]:
                continue
            things = tuple(
                replace(thing, size=other.size)
                for thing, other in zip(draft.things, drawn, strict=True)
            )
            found = replace(draft, things=things, background=behind)
            if self.admits(found):
                return found
        return draft

    def _background(self, stream: Draws) -> Background:
        kind = stream.pick(self._backgrounds)
        colours = stream.pick(self._colourings[kind])
        return Background(kind, colours, (), stream.below(VARIANTS))

    def _things(
        self,
        stream: Draws,
        background: Background,
        count: int,
        relation: str | None,
        style: str,
        counted: bool,
    ) -> tuple[Thing, ...]:
        sizes = self._sizes(stream, count, relation, style)
        visible = self._visible(background.kind, background.colours)
        # Stripes and dots need room to be seen.
        smooth = count > 2 or style in ("pixelated", "pencil")
        if counted:
            return (self._thing(stream, sizes[0], visible, smooth),) * count
        return tuple(self._thing(stream, size, visible, smooth) for size in sizes)

    @property
    def relations(self) -> tuple[str, ...]:
        """Those that this world's objects can stand in: what holds another is a large shape, and
        what it holds small."""
        held = {"small", "large"} <= {*self.config.sizes} and "shapes" in self.config.kinds
        return tuple(name for name in self.config.relations if name != "inside" or held)

    def _sizes(
        self, stream: Draws, count: int, relation: str | None, style: str
    ) -> tuple[str, ...]:
        sizes = self.config.sizes
        if relation == "inside":
            return ("small", "large")
        if style == "pixelated":
            sizes = _only(sizes, ("large",))
        elif style == "pencil":
            sizes = _only(sizes, ("medium", "large"))
        if count > 2:
            sizes = _only(sizes, ("small", "medium"))
        picked = [stream.pick(sizes) for _ in range(count)]
        if relation == "on":  # the carrier is no smaller than what it carries
            picked.sort(key=("small", "medium", "large").index)
        return tuple(picked)

    def _thing(self, stream: Draws, size: str, visible: tuple[str, ...], smooth: bool) -> Thing:
        kinds = self.config.kinds
        if stream.pick(kinds) == "emoji":
            return Thing("emoji", stream.pick(self.emoji), "", "plain", size)
        name = stream.pick(self.config.shapes)
        colour = stream.pick(visible)
        texture = stream.pick(self._textures)
        if smooth or size == "small":
            texture = _only(self.config.textures, ("plain",))[0]
        return Thing("shape", name, colour, texture, size)

    def variants(self, stream: Draws, count: int) -> list[Draft]:
        """`count` drafts of one scene that are told apart by a detail only: a contrast group.

        A quarter to two fifths of the groups turn on binding and order (`_rebound`), which a CLIP
        does not learn from anything else; the others on one attribute. What has fewer variants
        than `count` is filled up with other names and colours for its first thing.
        """
        for _ in range(GROUP_ATTEMPTS):
            base = self.draw(stream)
            rebound = self._admitted(base, self._rebound(base))
            if len(rebound) > 1 and stream.chance(_REBOUND_PERCENT):
                groups = [rebound]
            else:
                axes = (
                    self._vary_names,
                    self._vary_colours,
                    self._vary_backgrounds,
                    self._vary_relations,
                    self._vary_counts,
                )
                groups = [self._admitted(base, axis(base)) for axis in axes]
            full = (self._filled(group, stream, count) for group in groups if len(group) > 1)
            groups = [group for group in full if len(group) >= count]
            if groups:
                group = stream.pick(groups)
                start = stream.below(len(group))
                return [group[(start + step) % len(group)] for step in range(count)]
        raise ValueError(
            f"contrast is {count}, but these shapes, colours and backgrounds never give as many "
            "variants of one scene; allow more of them or lower contrast"
        )

    def _filled(self, group: list[Draft], stream: Draws, count: int) -> list[Draft]:
        """The group, and behind it as many other names and colours as it takes for `count`."""
        if len(group) >= count:
            return group
        base = group[0]
        others = self._admitted(base, self._vary_names(base) + self._vary_colours(base))
        others = [draft for draft in others if draft not in group]
        missing = min(count - len(group), len(others))
        start = stream.below(max(1, len(others)))
        return group + [others[(start + step) % len(others)] for step in range(missing)]

    def _admitted(self, base: Draft, others: list[Draft]) -> list[Draft]:
        if not others:
            return []
        base = replace(base, must_name=others[0].must_name)
        return [base, *(draft for draft in others if draft != base and self.admits(draft))]

    def _vary_thing(self, base: Draft, **change: str) -> Draft:
        things = tuple(
            replace(thing, **change) if base.counted or place == 0 else thing
            for place, thing in enumerate(base.things)
        )
        return replace(base, things=things)

    def _vary_names(self, base: Draft) -> list[Draft]:
        if base.things[0].kind == "emoji":
            start = self.emoji.index(base.things[0].name)
            names = (self.emoji[start:] + self.emoji[:start])[:100]
        else:
            names = self.config.shapes
        return [self._vary_thing(base, name=name) for name in names]

    def _vary_colours(self, base: Draft) -> list[Draft]:
        if base.things[0].kind == "emoji":
            return []
        return [self._vary_thing(base, colour=colour) for colour in self.config.colours]

    def _vary_backgrounds(self, base: Draft) -> list[Draft]:
        return [
            replace(
                base,
                background=Background(kind, colours, (), base.background.variant),
                must_name="background",
            )
            for kind in self.config.backgrounds
            for colours in (self._colourings[kind] if kind != "gradient" else ())
        ]

    def _vary_relations(self, base: Draft) -> list[Draft]:
        beside = ("above", "below", "left of", "right of")
        if base.relation not in beside:
            return []
        return [replace(base, relation=name) for name in self.config.relations if name in beside]

    def _rebound(self, base: Draft) -> list[Draft]:
        """The scene with its order inverted, with that and its colours swapped, and with these.

        Each caption has the words of the others: only who is where, and whose colour is which,
        tells them apart. Neighbours in the list, a circle with `base`, differ in one of the two.
        """
        inverted, swapped = order_inverted(base), colours_swapped(base)
        both = inverted and colours_swapped(inverted)
        return [draft for draft in (inverted, both, swapped) if draft is not None]

    def _vary_counts(self, base: Draft) -> list[Draft]:
        if not base.counted:
            return []
        low, high = max(2, self.config.min_objects), self.config.max_objects
        sizes = ("small", "medium") if high > 2 else ("small", "medium", "large")
        if base.things[0].size not in sizes:
            return []
        return [replace(base, things=base.things[:1] * count) for count in range(low, high + 1)]


assert set(_BACKGROUNDS) == {"flat", "gradient", *PAINTED}
