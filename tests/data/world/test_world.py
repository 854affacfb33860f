"""The built-in world: determinism, geometry, colours, splits, contrast groups, bad configs."""

import hashlib
import itertools
import pickle
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unclip.data.world.compose import Composer, Draft, Thing, colours_swapped, order_inverted
from unclip.data.world.preview import preview
from unclip.data.world.scene import (
    COLOURS,
    GRID,
    PALETTE,
    RELATIONS,
    SHAPES,
    Background,
    Object,
    Scene,
    WorldConfig,
    is_held_out,
    is_held_out_attribute,
    is_held_out_pair,
)
from unclip.data.world.shapes import ArrayCache, ink_rows, mask
from unclip.data.world.world import World
from unclip.randomness import Draws

# Every byte of captions and pixels of the shapes world. A change here changes what every seed
# means: record the new value only together with a note in the changelog.
RECORDED = {
    "default": "694402f13429a964a6b4af8c526a05dad8ab86f0d2d112fb68f4822ac9e1e1fb",
    "held-out": "76c11676546c284c7d68ad0dae84eaf9f4aada58e052924286d6857ef7689357",
    "contrast": "7af5ef7dad3334ef349e08a6f64134b37b9a89b732cf6d7e85dcc74de4199914",
}
CONFIGS = {
    "default": WorldConfig(),
    "held-out": WorldConfig(split="held-out", seed=7),
    "contrast": WorldConfig(contrast=3),
}


def _digest(config: WorldConfig, count: int) -> str:
    world = World(config)
    digest = hashlib.sha256()
    for index in range(count):
        scene = world.scene(index)
        digest.update(f"{scene.caption}\n{scene.plain_caption}\n".encode())
        digest.update(world.render(scene, 64).tobytes())
        digest.update(world.render(scene, 32).tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    world = World()
    return [world.scene(index) for index in range(4000)]


@pytest.mark.parametrize("name", CONFIGS)
def test_captions_and_pixels_are_those_recorded(name: str) -> None:
    assert _digest(CONFIGS[name], 120) == RECORDED[name]


def test_scene_depends_on_seed_and_index_only() -> None:
    world, other = World(WorldConfig(size=32)), World(WorldConfig(size=32))
    backwards = [world.scene(index) for index in reversed(range(20))][::-1]
    assert backwards == [other.scene(index) for index in range(20)]
    assert world.scene(3) != World(WorldConfig(size=32, seed=1)).scene(3)
    image, caption = pickle.loads(pickle.dumps(world))[5]
    assert np.array_equal(image, other[5][0])
    assert caption == other[5][1]


def test_variety(scenes: list[Scene]) -> None:
    objects = [thing for scene in scenes for thing in scene.objects]
    assert {thing.name for thing in objects} == set(SHAPES)
    assert {thing.colour for thing in objects} == set(COLOURS)
    assert {scene.relation for scene in scenes} == {None, *RELATIONS}
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3, 4}
    assert len({scene.caption for scene in scenes}) > 0.9 * len(scenes)
    named = sum(scene.background_named for scene in scenes) / len(scenes)
    assert 0.82 < named < 0.88


def _box(thing: Object) -> tuple[float, float, float, float]:
    half = thing.extent / 2
    return thing.x - half, thing.y - half, thing.x + half, thing.y + half


def _relation_holds(relation: str, first: Object, second: Object) -> bool:
    left, top, right, bottom = _box(first)
    other_left, other_top, other_right, other_bottom = _box(second)
    dx, dy = second.x - first.x, second.y - first.y
    if relation == "above":
        return bottom < other_top and abs(dx) <= abs(dy) / 2 + 1 / GRID
    if relation == "below":
        return top > other_bottom and abs(dx) <= abs(dy) / 2 + 1 / GRID
    if relation == "left of":
        return right < other_left and abs(dy) <= abs(dx) / 2 + 1 / GRID
    if relation == "right of":
        return left > other_right and abs(dy) <= abs(dx) / 2 + 1 / GRID
    if relation == "inside":
        return other_left < left and right < other_right and other_top < top < bottom < other_bottom
    feet = top + first.extent * ink_rows(first.name)[1] / 128
    surface = other_top + second.extent * ink_rows(second.name)[0] / 128
    return abs(feet - surface) <= 1 / GRID and abs(dx) <= 1.5 / GRID


def test_relations_are_true(scenes: list[Scene]) -> None:
    related = [scene for scene in scenes if scene.relation]
    assert len(related) > 1000
    for scene in related:
        assert scene.relation is not None
        assert _relation_holds(scene.relation, *scene.objects), scene


def test_objects_lie_in_the_image_and_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        boxes = [_box(thing) for thing in scene.objects]
        for box in boxes:
            assert min(box) >= 1 / GRID, scene
            assert max(box) <= 1 - 1 / GRID, scene
        if scene.relation in ("inside", "on"):
            continue
        for one, two in itertools.combinations(boxes, 2):
            gap = max(one[0] - two[2], two[0] - one[2], one[1] - two[3], two[1] - one[3])
            assert gap >= 2 / GRID, scene


def test_sizes_mean_what_they_say(scenes: list[Scene]) -> None:
    ranges = {"small": (0.23, 0.26), "medium": (0.32, 0.37), "large": (0.46, 0.63)}
    for scene in scenes:
        for thing in scene.objects:
            low, high = ranges[thing.size]
            assert low <= thing.extent <= high, scene


def _cover(thing: Object, size: int) -> np.ndarray:
    """Pixels that lie wholly in a shape, as an image-sized mask."""
    extent = round(thing.extent * GRID)
    left, top = ((2 * centre - thing.extent) * size for centre in (thing.x, thing.y))
    left, top = int(left + 0.5), int(top + 0.5)
    cover = mask(thing.name, "plain", size, extent, left & 1, top & 1)[0][..., 0] == 256
    whole = np.zeros((size, size), dtype=bool)
    whole[top // 2 : top // 2 + cover.shape[0], left // 2 : left // 2 + cover.shape[1]] = cover
    return whole


def test_pixels_show_the_named_colours() -> None:
    world = World(WorldConfig(seed=3, styles=("plain",)))
    names, values = list(PALETTE), np.array(list(PALETTE.values()))
    for index in range(400):
        scene = world.scene(index)
        image = world.render(scene, 64).astype(int)
        for place, thing in enumerate(scene.objects):
            region = _cover(thing, 64)
            for hiding in scene.objects[:place]:  # what is inside or on something hides it
                region &= ~_cover(hiding, 64)
            distances = ((image[region][:, None] - values) ** 2).sum(-1)
            share = (distances.argmin(1) == names.index(thing.colour)).mean()
            assert share > (0.9 if thing.texture == "plain" else 0.45), scene


@pytest.mark.parametrize("style", ["plain", "pencil", "posterised"])
def test_objects_stand_out_from_their_surroundings(style: str) -> None:
    world = World(WorldConfig(seed=4, styles=(style,), max_objects=1, textures=("plain",)))
    for index in range(150):
        scene = world.scene(index)
        image = world.render(scene, 64).astype(int)
        region = _cover(scene.objects[0], 64)
        left, top, right, bottom = (round(edge * 64) for edge in _box(scene.objects[0]))
        ring = np.zeros((64, 64), dtype=bool)
        ring[max(top - 3, 0) : bottom + 3, max(left - 3, 0) : right + 3] = True
        ring[top - 1 : bottom + 1, left - 1 : right + 1] = False
        assert np.abs(image[region].mean(0) - image[ring].mean(0)).max() > 45, scene


@pytest.mark.parametrize("size", [32, 33, 47, 64, 100, 255, 1000, 1024])
def test_every_resolution(size: int) -> None:
    world = World(WorldConfig(size=size))
    for index in range(4 if size > 500 else 25):
        image, _ = world[index]
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8


@pytest.mark.parametrize("size", [64, 128, 256])
def test_downsampled_image_looks_like_the_small_one(size: int) -> None:
    world = World(WorldConfig(seed=5))
    factor = size // 32
    for index in range(80):
        scene = world.scene(index)
        image = world.render(scene, size).reshape(32, factor, 32, factor, 3).mean(axis=(1, 3))
        difference = np.abs(image - world.render(scene, 32))
        assert difference.mean() < (6 if scene.style == "pencil" else 3), scene


def test_train_and_held_out_share_no_combination() -> None:
    train, held_out = World(), World(WorldConfig(split="held-out"))
    for index in range(1500):
        assert not is_held_out(train.scene(index).objects)
        assert is_held_out(held_out.scene(index).objects)


def test_training_keeps_every_shape_and_colour() -> None:
    pairs = list(itertools.product(SHAPES, COLOURS))
    held = [pair for pair in pairs if is_held_out_attribute(*pair)]
    assert 0.07 < len(held) / len(pairs) < 0.13
    for shape in SHAPES:
        assert sum(name == shape for name, _ in held) <= 2
    for colour in COLOURS:
        assert sum(name == colour for _, name in held) <= 3
    couples = list(itertools.combinations(SHAPES, 2))
    share = sum(is_held_out_pair(*couple) for couple in couples) / len(couples)
    assert 0.07 < share < 0.13
    assert all(is_held_out_pair(a, b) == is_held_out_pair(b, a) for a, b in couples)


def groups_of(world: World, count: int) -> list[list[Scene]]:
    size = world.config.contrast
    return [[world.scene(g * size + step) for step in range(size)] for g in range(count)]


def pairs_of(scene: Scene) -> list[tuple[str, str]]:
    return [(thing.name, thing.colour) for thing in scene.objects]


def is_rebound(one: Scene, other: Scene) -> bool:
    """Whether the same names, colours and relation are tied to each other differently."""
    same = [
        sorted(name for name, _ in pairs_of(scene))
        + sorted(colour for _, colour in pairs_of(scene))
        for scene in (one, other)
    ]
    tied = pairs_of(one) != pairs_of(other)
    return same[0] == same[1] and tied and one.relation == other.relation


@pytest.mark.parametrize(("contrast", "split"), [(2, "train"), (4, "train"), (8, "all")])
def test_contrast_groups_share_all_but_one_detail(contrast: int, split: str) -> None:
    for members in groups_of(World(WorldConfig(contrast=contrast, split=split)), 120):
        assert len({scene.caption for scene in members}) == contrast
        assert len({scene.plain_caption for scene in members}) == contrast
        assert len({scene.style for scene in members}) == 1
        if any(is_rebound(members[0], scene) for scene in members[1:]):
            assert len({scene.background.kind for scene in members}) == 1
            continue
        kinds = {
            "background": [(scene.background.kind, scene.background.colours) for scene in members],
            "relation": [scene.relation for scene in members],
            "count": [len(scene.objects) for scene in members],
            "names": [tuple({thing.name: 0 for thing in scene.objects}) for scene in members],
            "colours": [tuple({thing.colour: 0 for thing in scene.objects}) for scene in members],
        }
        varied = {name for name, values in kinds.items() if len(set(values)) > 1}
        # What an axis gives too few of is filled up with other names and colours.
        assert len(varied) == 1 or varied & {"names", "colours"}, [s.caption for s in members]


@pytest.mark.parametrize("more", [{}, {"max_objects": 2, "styles": ("plain",)}])
def test_a_quarter_of_contrast_groups_turns_on_binding_and_order(more: dict[str, Any]) -> None:
    groups = groups_of(World(WorldConfig(contrast=4, **more)), 600)
    rebound = [g for g in groups if any(is_rebound(a, b) for a in g for b in g)]
    assert 0.22 < len(rebound) / len(groups) < 0.45
    related = [g for g in rebound if g[0].relation in ("above", "below", "left of", "right of")]
    whole = [g for g in related if len({tuple(sorted(pairs_of(scene))) for scene in g}) == 2]
    assert len(whole) > 0.4 * len(related)
    for group in whole:  # {original, order inverted, both, colours swapped}, from anywhere on
        orders = [tuple(name for name, _ in pairs_of(scene)) for scene in group]
        assert sorted(orders.count(order) for order in orders) == [2, 2, 2, 2]
        assert len({tuple(pairs_of(scene)) for scene in group}) == 4


def test_misreadings_are_wrong_in_the_captions_words() -> None:
    world = World(WorldConfig(max_objects=2, split="held-out"))
    kinds = set()
    for i in range(200):
        scene, wrong = world.scene(i), world.misread(i)
        kinds.update(wrong)
        for caption in wrong.values():
            assert caption != scene.caption
            for colour in ("red", "blue", "green", "pink"):  # those with one word
                assert caption.count(f" {colour}") == scene.caption.count(f" {colour}")
        if "colours" in wrong:
            one, two = scene.objects
            assert {one.colour, two.colour} <= {*COLOURS}
            assert one.colour != two.colour
            assert one.name != two.name
        if len(scene.objects) != 2 or scene.counted:
            assert not wrong
        if scene.relation in ("above", "left of"):
            assert "relation" in wrong
        if scene.relation is None:
            assert "relation" not in wrong  # "a star and a ring" is as true as "a ring and a star"
    assert kinds == {"colours", "relation"}


def test_again_is_another_scene_of_the_same_caption() -> None:
    world, differ = World(WorldConfig(contrast=4)), set[str]()
    for i in range(100):
        scene, other = world.scene(i), world.scene(i, again=1)
        assert scene == world.scene(i)
        assert other == world.scene(i, again=1)
        assert (other.caption, other.relation) == (scene.caption, scene.relation)
        assert pairs_of(other) == pairs_of(scene)
        assert other.objects != scene.objects
        behind = [(one.background.kind, one.background.colours) for one in (scene, other)]
        if scene.background_named:
            assert behind[0] == behind[1]
        elif behind[0] != behind[1]:
            differ.add("background")
        for one, two in zip(scene.objects, other.objects, strict=True):
            if one.size_named:
                assert one.size == two.size
            elif one.size != two.size:
                differ.add("size")
        if scene.counted:
            assert len({thing.size for thing in other.objects}) == 1
    assert differ == {"background", "size"}


def test_again_ends_where_the_world_would_never_draw_the_like() -> None:
    striped = Thing("shape", "star", "red", "striped", "small")
    draft = draft_of("inside", striped, Thing("shape", "ring", "blue", "plain", "large"))
    assert Composer(WorldConfig()).again(draft, Draws(0), background=True) == draft


def test_again_draws_what_is_left_open_as_often_as_the_world_does() -> None:
    """Of a caption that says neither: how often each size and background stand behind it."""
    config = WorldConfig(
        kinds=("shapes",), shapes=("star",), colours=("red", "black", "white"), max_objects=1,
        textures=("plain",), styles=("plain",), backgrounds=("flat", "night", "room"),
        sizes=("medium", "large"), split="all",
    )  # fmt: skip
    world, found = World(config), list[Scene]()
    for i in range(6000):
        scene = world.scene(i)
        said = scene.background_named or scene.objects[0].size_named
        if scene.objects[0].colour == "red" and not said:
            found.append(scene)
    drawn = [world.scene(found[0].index, again) for again in range(1, 1500)]

    def looks(scenes: list[Scene]) -> Counter[tuple[str, tuple[str, ...], str]]:
        return Counter(
            (scene.background.kind, scene.background.colours, scene.objects[0].size)
            for scene in scenes
        )

    theirs, ours = looks(found), looks(drawn)
    assert len(found) > 100
    assert set(ours) >= set(theirs)
    for look in ours:
        rate, other = theirs[look] / len(found), ours[look] / len(drawn)
        error = (other * (1 - other) * (1 / len(found) + 1 / len(drawn))) ** 0.5
        assert abs(rate - other) < 4 * error, look


def draft_of(relation: str | None, *things: Thing, counted: bool = False) -> Draft:
    return Draft(things, Background("night"), relation, "plain", counted)


def test_swapping_and_inverting() -> None:
    star = Thing("shape", "star", "red", "plain", "small")
    ring = Thing("shape", "ring", "blue", "plain", "large")
    blue_star, red_ring = replace(star, colour="blue"), replace(ring, colour="red")
    draft = draft_of("above", star, ring)
    assert colours_swapped(draft) == draft_of("above", blue_star, red_ring)
    assert order_inverted(draft) == draft_of("above", ring, star)
    # What is inside is the smaller one, whichever it is.
    inside = draft_of("inside", replace(ring, size="small"), replace(star, size="large"))
    assert order_inverted(draft_of("inside", star, ring)) == inside
    # Nothing that is as true as the draft itself.
    assert order_inverted(draft_of(None, star, ring)) is None
    assert colours_swapped(draft_of("above", star, blue_star)) is None
    assert colours_swapped(draft_of(None, star, replace(ring, colour="red"))) is None
    for change in (colours_swapped, order_inverted):
        assert change(draft_of(None, star)) is None
        assert change(draft_of(None, star, star, counted=True)) is None


def test_ground_truth_as_plain_data() -> None:
    scene = World(WorldConfig(min_objects=2)).scene(0)
    data = scene.to_dict()
    assert data["caption"] == scene.caption
    assert data["objects"][1]["name"] == scene.objects[1].name
    assert data["background"]["kind"] == scene.background.kind


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kinds", ()),
        ("kinds", "shapes"),
        ("shapes", ("blob",)),
        ("colours", ("red", "red")),
        ("size", 31),
        ("size", 1025),
        ("size", 64.0),
        ("seed", -1),
        ("split", "test"),
        ("min_objects", 0),
        ("max_objects", 5),
        ("contrast", 0),
        ("contrast", 9),
        ("language", ""),
    ],
)
def test_config_errors_name_the_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        WorldConfig(**{field: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"shapes": ("circle",), "colours": ("red",), "split": "held-out"},
        {"shapes": ("circle",), "colours": ("red",), "relations": (), "min_objects": 5},
        {"colours": ("green",), "backgrounds": ("sky and grass",)},
        {"min_objects": 3, "max_objects": 2},
    ],
)
def test_impossible_worlds_say_so(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"objects|stands out|can be made"):
        World(WorldConfig(**fields))  # type: ignore[arg-type]


def test_impossible_contrast_says_so() -> None:
    world = World(
        WorldConfig(
            shapes=("circle", "star"), colours=("red", "blue"), backgrounds=("sea",), contrast=8
        )
    )
    with pytest.raises(ValueError, match="contrast is 8"):
        world.scene(0)


def test_narrow_worlds_work() -> None:
    narrow = [
        {"shapes": ("circle",), "colours": ("red",)},
        {"sizes": ("large",), "min_objects": 4},
        {"sizes": ("small",), "relations": ("inside",), "min_objects": 2},
        {"styles": ("pixelated",), "min_objects": 3},
        {"textures": ("dotted",)},
        {"relations": (), "min_objects": 2},
    ]
    for fields in narrow:
        world = World(WorldConfig(size=32, **fields))  # type: ignore[arg-type]
        for index in range(15):
            assert world[index][0].shape == (32, 32, 3)


def test_bad_index_and_size() -> None:
    world = World()
    with pytest.raises(IndexError, match="start at 0"):
        world.scene(-1)
    with pytest.raises(ValueError, match="size is 16"):
        world.render(world.scene(0), 16)


def test_cache_stays_within_its_budget() -> None:
    cache = ArrayCache(1000)
    for number in range(20):
        cache.put((number,), np.zeros(100, dtype=np.uint8))
    assert cache.held_bytes <= 1000
    assert cache.get((0,)) is None
    assert cache.get((19,)) is not None


def test_preview_is_written_whole(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "sheet.png"
    preview(path, WorldConfig(size=32), rows=2, columns=3, seed=1)
    with Image.open(path) as sheet:
        assert sheet.width > 3 * 150
    assert [entry.name for entry in tmp_path.iterdir()] == ["sheet.png"]
    with pytest.raises(ValueError, match="cannot write"):
        preview(tmp_path / "missing" / "sheet.png", WorldConfig(size=32), rows=1, columns=1)
    with pytest.raises(ValueError, match="out of range"):
        preview(path, rows=0)
