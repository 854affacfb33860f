"""Captions of the built-in world, read back by an independent parser and held to ground truth."""

import re

import pytest

from unclip.data.world.grammar import article, plural
from unclip.data.world.scene import COLOURS, Scene, WorldConfig
from unclip.data.world.shapes import OUTLINES
from unclip.data.world.world import World

COLOUR_WORDS = {"gray": "grey", "violet": "purple"} | {name: name for name in COLOURS}
SHAPE_WORDS = {
    "disc": "circle",
    "rhombus": "diamond",
    "plus sign": "cross",
    "ellipse": "oval",
    "crescent moon": "crescent",
    "half circle": "semicircle",
} | {name: name for name in OUTLINES}
SIZE_WORDS = {
    **dict.fromkeys(("small", "little", "tiny"), "small"),
    **dict.fromkeys(("medium-sized", "middle-sized"), "medium"),
    **dict.fromkeys(("large", "big", "huge"), "large"),
}
RELATION_WORDS = {
    **dict.fromkeys(("above", "over"), "above"),
    **dict.fromkeys(("below", "under", "beneath"), "below"),
    **dict.fromkeys(("left of", "to the left of", "on the left of"), "left of"),
    **dict.fromkeys(("right of", "to the right of", "on the right of"), "right of"),
    **dict.fromkeys(("inside", "within"), "inside"),
    **dict.fromkeys(("on", "on top of", "resting on"), "on"),
}
BACKGROUNDS = {
    "sky and grass": r"sky and grass|grass and sky",
    "sea": r"\bsea\b",
    "night": r"night",
    "room": r"room|indoors",
}
STYLES = {"pixelated": r"pixel", "pencil": r"pencil", "posterised": r"posteri[sz]ed"}
NUMBERS = {"two": 2, "2": 2, "three": 3, "3": 3, "four": 4, "4": 4}


def _either(words: dict[str, str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


NOUN = re.compile(
    rf"(?:\b(?P<article>an?|{'|'.join(NUMBERS)}) )"
    rf"(?:(?P<size>{_either(SIZE_WORDS)}) )?(?:(?P<before>striped|dotted) )?"
    rf"(?P<colour>{_either(COLOUR_WORDS)}) (?:(?P<between>striped|dotted) )?"
    rf"(?P<shape>{_either(SHAPE_WORDS)})(?P<many>e?s)?\b(?: with (?P<after>stripes|dots))?"
)
RELATION = rf"(?P<relation>{_either(RELATION_WORDS)})"
ENDING = {"stripes": "striped", "dots": "dotted", None: None}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    worlds = [World(WorldConfig(seed=2)), World(WorldConfig(seed=2, split="held-out"))]
    return [world.scene(index) for world in worlds for index in range(1500)]


def _nouns(caption: str) -> list[re.Match[str]]:
    return list(NOUN.finditer(caption))


def _texture(noun: re.Match[str]) -> str:
    return noun["before"] or noun["between"] or ENDING[noun["after"]] or "plain"


def test_captions_describe_every_object(scenes: list[Scene]) -> None:
    for scene in scenes:
        for caption in (scene.caption, scene.plain_caption):
            nouns = _nouns(caption)
            said = sorted(
                (SHAPE_WORDS[noun["shape"]], COLOUR_WORDS[noun["colour"]], _texture(noun))
                for noun in nouns
            )
            things = scene.objects[:1] if scene.counted else scene.objects
            assert said == sorted((t.name, t.colour, t.texture) for t in things), caption
            if scene.counted:
                assert NUMBERS[nouns[0]["article"]] == len(scene.objects), caption
                assert nouns[0]["many"], caption


def test_captions_name_sizes_only_where_the_scene_says_so(scenes: list[Scene]) -> None:
    for scene in scenes:
        by_look = {(thing.name, thing.colour): thing for thing in scene.objects}
        for noun in _nouns(scene.caption):
            thing = by_look[SHAPE_WORDS[noun["shape"]], COLOUR_WORDS[noun["colour"]]]
            assert (noun["size"] is not None) == thing.size_named, scene.caption
            assert not noun["size"] or SIZE_WORDS[noun["size"]] == thing.size, scene.caption


def test_captions_say_the_true_relation(scenes: list[Scene]) -> None:
    inverse = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
    for scene in (scene for scene in scenes if scene.relation):
        for caption in (scene.caption, scene.plain_caption):
            one, two = _nouns(caption)
            text = f"{caption[: one.start()]}#1{caption[one.end() : two.start()]}#2"
            text += caption[two.end() :]
            forms = {
                "plain": re.search(rf"#1 {RELATION} #2", text),
                "with": re.search(rf"#1 with #2 {RELATION} it", text),
                "fronted": re.search(rf"{RELATION} #1, #2", text),
            }
            form, found = next((f, m) for f, m in forms.items() if m)
            relation = RELATION_WORDS[found["relation"]]
            subject = one if form == "plain" else two
            first = scene.objects[0]
            looks = (SHAPE_WORDS[subject["shape"]], COLOUR_WORDS[subject["colour"]])
            if looks != (first.name, first.colour):
                relation = inverse[relation]
            assert relation == scene.relation, caption


def test_captions_name_background_and_style_truly(scenes: list[Scene]) -> None:
    for scene in scenes:
        rest = NOUN.sub("#", scene.caption)
        colours = [COLOUR_WORDS[w] for w in re.findall(rf"\b({_either(COLOUR_WORDS)})\b", rest)]
        expected = list(scene.background.colours) if scene.background_named else []
        assert colours == expected, scene.caption
        for kind, pattern in BACKGROUNDS.items():
            named = scene.background_named and scene.background.kind == kind
            assert bool(re.search(pattern, rest)) == named, scene.caption
        for style, pattern in STYLES.items():
            assert bool(re.search(pattern, rest)) == (scene.style == style), scene.caption


def test_captions_are_clean(scenes: list[Scene]) -> None:
    for scene in scenes:
        for caption in (scene.caption, scene.plain_caption):
            assert caption == caption.lower().strip()
            assert "  " not in caption
            assert " a orange" not in caption
            assert len(caption) < 240


def test_plain_captions_tell_different_content_apart(scenes: list[Scene]) -> None:
    contents: dict[str, tuple[object, ...]] = {}
    for scene in scenes:
        content = (
            tuple((t.name, t.colour, t.texture, t.size) for t in scene.objects),
            (scene.background.kind, scene.background.colours),
            (scene.relation, scene.style, scene.counted),
        )
        assert contents.setdefault(scene.plain_caption, content) == content


def test_articles_and_plurals() -> None:
    assert [article(w) for w in ("orange", "euro", "hourglass", "heart", "one-piece suit")] == [
        "an orange",
        "a euro",
        "an hourglass",
        "a heart",
        "a one-piece suit",
    ]
    assert [plural(w) for w in ("box", "cherry", "key", "snowman", "hourglass", "cross")] == [
        "boxes",
        "cherries",
        "keys",
        "snowmen",
        "hourglasses",
        "crosses",
    ]
