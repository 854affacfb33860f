"""Emoji of the built-in world. All but the error tests need the font Noto Color Emoji."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import ImageFont

from unclip.data.world import glyphs
from unclip.data.world.grammar import is_many
from unclip.data.world.scene import WorldConfig, is_held_out
from unclip.data.world.world import World


def _has_font() -> bool:
    try:
        ImageFont.truetype(glyphs.FONT, glyphs.FONT_SIZE)
    except OSError:
        return False
    return True


needs_font = pytest.mark.skipif(
    not _has_font(), reason="needs the Debian package fonts-noto-color-emoji"
)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Forget what was found of the package and the font, before and after."""
    caches = (glyphs.find_font, glyphs._characters, glyphs.emoji_words)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_missing_font_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "FONT", "no-such-font.ttf")
    with pytest.raises(ValueError, match="fonts-noto-color-emoji"):
        World(WorldConfig(kinds=("emoji",)))
    assert World().scene(0).caption


@pytest.mark.usefixtures("fresh")
def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "emoji", None)
    with pytest.raises(ValueError, match="pip install emoji"):
        World(WorldConfig(kinds=("emoji",)))
    assert World().scene(0).caption


def test_unknown_language() -> None:
    with pytest.raises(ValueError, match="language is 'xx'"):
        World(WorldConfig(kinds=("emoji",), language="xx"))


@needs_font
def test_names_are_many_plain_and_unique() -> None:
    words = glyphs.emoji_words("en")
    assert len(words) >= 1100
    assert all(name == word and name.isascii() for name, word in words.items())
    assert all(name == name.lower().strip() and ":" not in name for name in words)
    assert not {"star", "heart", "ring", "red circle", "flag in hole", "ok button"} & set(words)
    assert is_many("grapes")
    assert not is_many("smiling face with sunglasses")


@needs_font
@pytest.mark.parametrize("language", ["de", "fr", "ja"])
def test_other_languages_rename_emoji(language: str) -> None:
    words = glyphs.emoji_words(language)
    assert len(words) >= 1000
    assert len(set(words.values())) == len(words)
    world = World(WorldConfig(kinds=("emoji",), language=language, max_objects=1))
    for index in range(20):
        scene = world.scene(index)
        assert words[scene.objects[0].name] in scene.caption


@needs_font
def test_sprites_fit_their_square() -> None:
    for name in list(glyphs.emoji_words("en"))[::40]:
        for pixels in (8, 22, 200):
            colours, rest = glyphs.sprite(name, pixels)
            assert colours.shape == (pixels, pixels, 3)
            assert rest.min() < 64  # something opaque is there
            assert (colours.astype(int) + rest.astype(int) * 255 + 128).max() < 2**16


@needs_font
@pytest.mark.parametrize("kinds", [("emoji",), ("shapes", "emoji")])
def test_emoji_worlds(kinds: tuple[str, ...]) -> None:
    train = World(WorldConfig(kinds=kinds, size=32))
    held_out = World(WorldConfig(kinds=kinds, size=32, split="held-out"))
    drawn = set()
    for index in range(150):
        scene = train.scene(index)
        image = train.render(scene)
        assert image.shape == (32, 32, 3)
        assert image.std() > 1
        assert not is_held_out(scene.objects)
        assert is_held_out(held_out.scene(index).objects)
        for thing in scene.objects:
            drawn.add(thing.kind)
            if thing.kind == "emoji":
                assert thing.colour == ""
                assert thing.name in scene.plain_caption or scene.counted
    assert drawn == ({"emoji"} if kinds == ("emoji",) else {"shape", "emoji"})


@needs_font
def test_emoji_in_every_style_and_contrast_group() -> None:
    world = World(WorldConfig(kinds=("emoji",), contrast=4))
    for group in range(20):
        captions = [world.scene(group * 4 + step).caption for step in range(4)]
        assert len(set(captions)) == 4
    for style in ("plain", "pixelated", "pencil", "posterised"):
        image, caption = World(WorldConfig(kinds=("emoji",), styles=(style,), max_objects=1))[0]
        assert isinstance(caption, str)
        assert np.unique(image.reshape(-1, 3), axis=0).shape[0] > 20
