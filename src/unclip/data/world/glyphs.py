"""Colour emoji of the built-in world: names from the `emoji` package, pixels from a system font.

Both are optional and are looked for only when a world asks for emoji. A sprite is a square of
(P, P) pixels into which the emoji fits with its proportions kept, premultiplied by its coverage.
"""

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from unclip.data.world.scene import COLOURS, GRID, RGB
from unclip.data.world.shapes import ArrayCache

if TYPE_CHECKING:
    from PIL import Image, ImageFont

FONT: Final = "NotoColorEmoji.ttf"
FONT_SIZE: Final = 109  # the only size at which the font holds pictures
NEWEST: Final = 15.0  # emoji version; fonts in current distributions draw all of it
DRAWING_BYTES: Final = 96 << 20
SPRITE_BYTES: Final = 96 << 20

_NO_PACKAGE: Final = (
    "emoji scenes need the Python package emoji; install it with: pip install emoji"
)
_NO_FONT: Final = (
    "emoji scenes need the font Noto Color Emoji; install it with: "
    "apt-get install fonts-noto-color-emoji"
)
# What is lettering or a sign rather than a picture, or would be confused with the shapes.
_SIGNS: Final = re.compile(
    r"\b(button|arrows?|flags?|o'clock|thirty|keycap|input|square|circle|circled|triangle|symbol"
    r"|sign|suit|mark|marks|asterisk|bubble|heavy|pointed|points|dash|loop|plus|minus|divide"
    r"|multiply|infinity|copyright|registered|atom|om|yin|david|dharma|prohibited|entry|non-potable"
    r"|potable|information|zzz|parking|p|aries|taurus|gemini|cancer|leo|virgo|libra|scorpio"
    r"|sagittarius|capricorn|aquarius|pisces|ophiuchus|no one under eighteen|skin tone)\b"
    r"|^(latin|orthodox) cross$|^star and crescent$|^(small|large) (blue|orange) diamond$"
    r"|^no |room$|^(restroom|water closet|radioactive|biohazard|trident emblem|fleur-de-lis)$"
)
# Shapes' own names, and names that are no nouns.
_UNUSED: Final = frozenset(
    {"star", "heart", "ring", "crescent moon", "diamond", "hourglass", "light blue heart"}
    | {f"{colour} heart" for colour in COLOURS}
    | {"locked", "unlocked", "locked with key", "locked with pen", "dizzy"}
)


def clean(name: str) -> str:
    """The package's name as plain lowercase words: ":Mrs._Claus:" is "mrs claus"."""
    words = name.strip(":").replace("_", " ").replace("’", "'").lower()
    return " ".join(re.sub(r"[“”\"().,:!;&]", " ", words).split())


def _package() -> Any:
    try:
        import emoji
    except ImportError:
        raise ValueError(_NO_PACKAGE) from None
    return emoji


@lru_cache(maxsize=1)
def find_font() -> "ImageFont.FreeTypeFont":
    """The colour emoji font at the one size that it has; `ValueError` where it is not installed."""
    from PIL import ImageFont

    try:
        return ImageFont.truetype(FONT, FONT_SIZE)
    except OSError:
        raise ValueError(_NO_FONT) from None


@lru_cache(maxsize=1)
def _characters() -> dict[str, str]:
    """One-character emoji that the font draws, by English name, in code point order."""
    package, font = _package(), find_font()
    names: dict[str, str] = {}
    for text, entry in sorted(package.EMOJI_DATA.items()):
        single = len(text) == 1 or (len(text) == 2 and text[1] == "\ufe0f")
        if not single or entry["status"] != package.STATUS["fully_qualified"]:
            continue
        name = unicodedata.normalize("NFKD", clean(entry["en"])).encode("ascii", "ignore").decode()
        if entry["E"] > NEWEST or name in _UNUSED or _SIGNS.search(name):
            continue
        left, top, right, bottom = font.getbbox(text[0])
        if right > left and bottom > top and name not in names:
            names[name] = text[0]
    return names


@lru_cache(maxsize=16)
def emoji_words(language: str) -> dict[str, str]:
    """The words for each emoji in a language, by English name; no two emoji share their words.

    Raises:
        ValueError: for an unknown language, or where the package or the font is missing.
    """
    package = _package()
    if language not in package.LANGUAGES:
        raise ValueError(
            f"language is {language!r}; emoji have names in {', '.join(sorted(package.LANGUAGES))}"
        )
    characters = _characters()
    if language == "en":
        return {name: name for name in characters}
    package.config.load_language(language)
    words: dict[str, str] = {}
    taken: set[str] = set()
    for name, character in characters.items():
        entry = package.EMOJI_DATA.get(character + "\ufe0f") or package.EMOJI_DATA[character]
        text = clean(entry.get(language, ""))
        if text and text not in taken:
            words[name] = text
            taken.add(text)
    return words


_drawings = ArrayCache(DRAWING_BYTES)
_sprites = ArrayCache(SPRITE_BYTES)


def _drawing(name: str) -> NDArray[np.uint8]:
    """The emoji as the font draws it, cut to its ink: (height, width, 4), premultiplied."""
    entry = _drawings.get((name,))
    if entry is None:
        from PIL import Image, ImageDraw

        character, font = _characters()[name], find_font()
        picture = Image.new("RGBA", (2 * FONT_SIZE, 2 * FONT_SIZE), (0, 0, 0, 0))
        pen = ImageDraw.Draw(picture)
        pen.text((FONT_SIZE // 4, FONT_SIZE // 4), character, font=font, embedded_color=True)
        pixels = np.asarray(picture.crop(picture.getbbox()).convert("RGBa"))
        entry = _drawings.put((name,), pixels)
    return entry[0]


def _fitted(name: str, pixels: int) -> "Image.Image":
    from PIL import Image

    drawing = _drawing(name)
    height, width = drawing.shape[:2]
    longer = max(height, width)
    size = (max(1, pixels * width // longer), max(1, pixels * height // longer))
    whole = Image.frombuffer("RGBa", (width, height), drawing.tobytes(), "raw", "RGBa", 0, 1)
    way = Image.Resampling.BOX if pixels < longer else Image.Resampling.BICUBIC
    square = Image.new("RGBa", (pixels, pixels))
    square.paste(whole.resize(size, way), ((pixels - size[0]) // 2, (pixels - size[1]) // 2))
    return square


def sprite(name: str, pixels: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """An emoji's premultiplied colours times 256, (P, P, 3), and 256 minus its coverage."""
    key = (name, pixels)
    entry = _sprites.get(key)
    if entry is None:
        values = np.asarray(_fitted(name, pixels)).astype(np.uint16)
        alpha = values[..., 3:]
        values = np.minimum(values, alpha)  # enlarging can overshoot
        entry = _sprites.put(
            key, values[..., :3] * 256, (256 - alpha - (alpha >> 7)).astype(np.uint16)
        )
    return entry[0], entry[1]


@lru_cache(maxsize=4096)
def emoji_colour(name: str) -> RGB:
    """The emoji's mean colour, for telling whether it stands out on a background."""
    drawing = _drawing(name)[::4, ::4].reshape(-1, 4).sum(axis=0, dtype=np.int64)
    red, green, blue = (int(255 * total // drawing[3]) for total in drawing[:3])
    return red, green, blue


@lru_cache(maxsize=4096)
def emoji_ink(name: str) -> tuple[int, int]:
    """First and last-plus-one row of the emoji in its square, in 128ths of the square."""
    height, width = _drawing(name).shape[:2]
    tall = 2 * GRID * min(height, width) // width if height < width else 2 * GRID
    return GRID - tall // 2, GRID + tall // 2
