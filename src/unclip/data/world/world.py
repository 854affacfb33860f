"""`World`: from a configuration and an index to a scene, its caption and its pixels."""

from typing import Final

from unclip.data.world import glyphs
from unclip.data.world.compose import Composer, Draft, Thing, colours_swapped, order_inverted
from unclip.data.world.grammar import SIZE_PERCENT, Grammar, subjects
from unclip.data.world.layout import lay_out
from unclip.data.world.render import Image, render_scene
from unclip.data.world.scene import (
    GRID,
    PALETTE,
    RGB,
    SPLITS,
    Background,
    Object,
    Scene,
    WorldConfig,
)
from unclip.data.world.scenery import accent_colour, surroundings
from unclip.data.world.shapes import ink_rows
from unclip.randomness import Draws

_JITTER: Final = 8  # of each colour channel
_NEUTRAL: Final = ("black", "white", "grey")
_SPLIT_KEYS: Final = {name: number for number, name in enumerate(SPLITS)}
_CONTENT, _LAYOUT, _WORDS, _AGAIN = 1, 2, 3, 4  # independent streams of one scene


class World:
    """An endless, indexable set of captioned scenes; see `WorldConfig` for what they hold.

    Raises:
        ValueError: if the configuration leaves no scene to draw, or asks for emoji where the
            `emoji` package or the font is missing.
    """

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = config or WorldConfig()
        words: dict[str, str] = {}
        if "emoji" in self.config.kinds:
            words = glyphs.emoji_words(self.config.language)
        self._composer = Composer(self.config, tuple(words), glyphs.emoji_colour)
        self._grammar = Grammar(self.config.language, words)
        self._group: tuple[int, list[Draft]] = (-1, [])

    def __reduce__(self) -> tuple[type["World"], tuple[WorldConfig]]:
        """Pickled as its config: data loaders' workers build their own."""
        return World, (self.config,)

    def scene(self, index: int, again: int = 0) -> Scene:
        """Scene number `index` (0 or more): ground truth and caption, without pixels.

        Args:
            again: other numbers give other scenes of the same caption, to see how much of an image
                a caption leaves open. Places and shades are drawn anew, and so are sizes and the
                background where it does not say them: each as often as the world draws it under
                such a caption.
        """
        keys, draft = self._draft(index)
        caption, named, background_named = self._grammar.caption(draft, Draws(*keys, _WORDS))
        if again:
            draft = self._again(draft, named, background_named, Draws(*keys, _AGAIN, again))
        places = Draws(*keys, _LAYOUT, *([again] if again else []))
        background, objects = _realise(draft, named, places)
        return Scene(
            objects=objects,
            background=background,
            relation=draft.relation,
            style=draft.style,
            caption=caption,
            plain_caption=self._grammar.plain_caption(draft),
            counted=draft.counted,
            background_named=background_named,
            index=index,
            seed=self.config.seed,
        )

    def _draft(self, index: int) -> tuple[tuple[int, ...], Draft]:
        """What scene `index` holds, and the keys of its random streams."""
        if index < 0:
            raise IndexError(f"scene {index} does not exist; indices start at 0")
        config = self.config
        group, member = divmod(index, config.contrast)
        keys = (config.seed, _SPLIT_KEYS[config.split], group)
        content = Draws(*keys, _CONTENT)
        if config.contrast == 1:
            return keys, self._composer.draw(content)
        held, drafts = self._group  # neighbouring indices share it
        if held != group:
            drafts = self._composer.variants(content, config.contrast)
            self._group = (group, drafts)
        return keys, drafts[member]

    def _again(
        self, draft: Draft, named: tuple[bool, ...], background_named: bool, stream: Draws
    ) -> Draft:
        """Another draft of which the caption could say the same, and as little."""
        count = 1 if draft.counted else len(draft.things)
        while True:
            other = self._composer.again(draft, stream, background=not background_named)
            sizes = zip(named[:count], draft.things, other.things, strict=False)
            if all(
                one.size == two.size if said else not stream.chance(SIZE_PERCENT[two.size])
                for said, one, two in sizes
            ):
                return other

    def misread(self, index: int) -> dict[str, str]:
        """Captions of scene `index` that are wrong, by the draws that its own words come from: with
        its two objects' "colours" swapped, and in each other's place ("relation"). One that would
        be true, or says nothing of the kind, is left out.
        """
        keys, draft = self._draft(index)
        wrong = {"colours": colours_swapped(draft)}
        if draft.relation not in ("inside", "on"):  # there, shapes alone would tell
            wrong["relation"] = order_inverted(draft)
        return {
            name: self._grammar.caption(other, Draws(*keys, _WORDS))[0]
            for name, other in wrong.items()
            if other is not None
        }

    @property
    def subjects(self) -> dict[str, tuple[str, ...]]:
        """What its captions can ask for, by kind."""
        emoji = tuple(self._grammar.emoji_words.values())
        return subjects(self.config, self._composer.relations, emoji)

    def render(self, scene: Scene, size: int | None = None) -> Image:
        """The scene's pixels, (size, size, 3) uint8; `size` is the config's unless given."""
        size = self.config.size if size is None else size
        if not (isinstance(size, int) and 32 <= size <= 1024):
            raise ValueError(f"size is {size!r}; give a whole number from 32 to 1024")
        return render_scene(scene, size, glyphs.sprite)

    def __getitem__(self, index: int) -> tuple[Image, str]:
        """Image and caption of scene number `index`."""
        scene = self.scene(index)
        return self.render(scene), scene.caption


def _ink(thing: Thing) -> tuple[int, int]:
    """First and last-plus-one row that a thing reaches, in 128ths of its box."""
    return ink_rows(thing.name) if thing.kind == "shape" else glyphs.emoji_ink(thing.name)


def _jittered(name: str, shift: tuple[int, int, int]) -> RGB:
    if name in _NEUTRAL:  # a tinge of colour would make grey look pink or blue
        shift = (shift[0], shift[0], shift[0])
    red, green, blue = (
        min(max(channel + step, 0), 255) for channel, step in zip(PALETTE[name], shift, strict=True)
    )
    return red, green, blue


def _shift(stream: Draws) -> tuple[int, int, int]:
    low, high = -_JITTER, _JITTER
    return stream.between(low, high), stream.between(low, high), stream.between(low, high)


def _realise(
    draft: Draft, named: tuple[bool, ...], stream: Draws
) -> tuple[Background, tuple[Object, ...]]:
    """Places and colours for a draft's background and things."""
    kind, names = draft.background.kind, draft.background.colours
    shifts = [_shift(stream) for _ in range(2)]
    background = Background(
        kind,
        names,
        tuple(_jittered(name, shift) for name, shift in zip(names, shifts, strict=False)),
        draft.background.variant,
    )
    around = surroundings(kind, names)
    shift = _shift(stream)
    objects = []
    for thing, says_size, (left, top, extent) in zip(
        draft.things, named, lay_out(draft, _ink, stream), strict=True
    ):
        if not draft.counted:
            shift = _shift(stream)
        rgb = _jittered(thing.colour, shift) if thing.colour else (0, 0, 0)
        accent = rgb if thing.texture == "plain" else accent_colour(rgb, around)
        objects.append(
            Object(
                kind=thing.kind,
                name=thing.name,
                colour=thing.colour,
                texture=thing.texture,
                size=thing.size,
                x=(left + extent / 2) / GRID,
                y=(top + extent / 2) / GRID,
                extent=extent / GRID,
                rgb=rgb,
                accent=accent,
                size_named=says_size,
            )
        )
    return background, tuple(objects)
