"""Scores of perfect, shuffled and spoiled findings, relations by geometry, and refusals."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from unclip.data.world.scene import COLOURS, SHAPES, Scene, WorldConfig
from unclip.data.world.world import World
from unclip.evaluation.judge.network import Detection, Detections, Judge, JudgeConfig
from unclip.evaluation.metrics import composition
from unclip.evaluation.metrics.composition import (
    Composition,
    Rate,
    check_judge,
    evaluate_model,
    held_out,
    holds,
    match,
    real_scores,
    score,
)

CONFIG = WorldConfig(max_objects=2, textures=("plain",), styles=("plain",))
NAMES = ("object", "colour", "background", "relation", "count", "binding", "exact")


def scenes(n: int = 600, config: WorldConfig = CONFIG) -> list[Scene]:
    world = held_out(config)
    return [world.scene(i) for i in range(n)]


def perfect(some: Sequence[Scene]) -> list[Detections]:
    return [Detections.of(scene) for scene in some]


def changed(some: Sequence[Scene], change: Callable[[Detection], Detection]) -> list[Detections]:
    return [replace(d, objects=tuple(map(change, d.objects))) for d in perfect(some)]


def box(x: float, y: float, extent: float = 0.25, name: str = "square") -> Detection:
    return Detection(name, "red", x, y, extent)


@pytest.mark.parametrize("most", [2, 4])
def test_ground_truth_scores_full_marks(most: int) -> None:
    config = WorldConfig(max_objects=most)
    some = scenes(1500, config)
    result = score(perfect(some), some)
    assert result.scenes == 1500
    assert {name: rate.accuracy for name, rate in result.rates().items()} == dict.fromkeys(NAMES, 1)
    assert result.object.total == sum(len(scene.objects) for scene in some)
    assert result.background.total == sum(scene.background_named for scene in some) < 1500
    assert result.relation.total == sum(scene.relation is not None for scene in some)
    assert result.count.total == sum(scene.counted for scene in some)
    assert min(rate.total for rate in result.rates().values()) > 30


def test_small_errors_of_place_are_forgiven() -> None:
    some, draw = scenes(), np.random.default_rng(0)

    def jitter(one: Detection) -> Detection:
        dx, dy, de = draw.uniform(-0.008, 0.008, 3)
        return replace(one, x=one.x + dx, y=one.y + dy, extent=one.extent + de)

    assert score(changed(some, jitter), some).relation.accuracy > 0.995


def test_other_scenes_findings_score_by_chance() -> None:
    some = scenes()
    rates = score(perfect(some[1:] + some[:1]), some).rates()
    assert rates["object"].accuracy < 0.2
    assert rates["background"].accuracy < 0.2
    assert rates["relation"].accuracy < 0.05
    assert rates["binding"].accuracy < 0.02


def test_each_fault_lowers_its_own_score_only() -> None:
    some = scenes()
    colourless = changed(some, lambda one: replace(one, colour="none"))
    _expect(score(colourless, some), colour=0, binding=0, exact=0)
    nothing = [replace(d, objects=()) for d in perfect(some)]
    _expect(
        score(nothing, some), object=0, colour=math.nan, relation=0, count=0, binding=0, exact=0
    )
    elsewhere = [replace(d, background="sea") for d in perfect(some)]
    share = score(elsewhere, some).background
    sea = [s.background.kind == "sea" for s in some if s.background_named]
    assert share.right == sum(sea)
    mirrored = changed(some, lambda one: replace(one, x=1 - one.x, y=1 - one.y))
    beside = [s for s in some if s.relation in ("above", "below", "left of", "right of")]
    assert score(mirrored, some).relation.right < len(beside)
    assert score([Detections.of(s) for s in beside], beside).relation.accuracy == 1
    _expect(
        score([m for m, s in zip(mirrored, some, strict=True) if s in beside], beside), relation=0
    )
    extra = [replace(d, objects=(*d.objects, box(0.5, 0.5))) for d in perfect(some)]
    _expect(score(extra, some), count=0, exact=0)


def _expect(result: Composition, **unusual: float) -> None:
    for name, rate in result.rates().items():
        if not (rate.total == 0 and name in ("binding", "count")):
            assert rate.accuracy == pytest.approx(unusual.get(name, 1), nan_ok=True), name


def test_swapped_colours_break_the_binding_and_nothing_else() -> None:
    config = replace(CONFIG, min_objects=2, backgrounds=("night",))
    apart = [s for s in scenes(400, config) if len({o.name for o in s.objects}) == 2]
    apart = [s for s in apart if len({o.colour for o in s.objects}) == 2]
    swapped = []
    for found in perfect(apart):
        one, two = found.objects
        pair = (replace(one, colour=two.colour), replace(two, colour=one.colour))
        swapped.append(replace(found, objects=pair))
    result = score(swapped, apart)
    assert result.binding.total == len(apart) > 100
    _expect(result, binding=0, colour=0, exact=0)


def test_gradients_and_flat_colours_count_in_any_order() -> None:
    config = replace(CONFIG, backgrounds=("gradient", "flat"))
    some = scenes(200, config)
    turned = [replace(d, background_colours=d.background_colours[::-1]) for d in perfect(some)]
    assert score(turned, some).background.accuracy == 1
    first = [replace(d, background_colours=d.background_colours[:1]) for d in perfect(some)]
    named = [s for s in some if s.background_named]
    assert score(first, some).background.right == sum(s.background.kind == "flat" for s in named)


def test_objects_are_matched_by_colour_first_and_never_twice() -> None:
    world = World(replace(CONFIG, min_objects=2, split="all"))
    pairs = (scene for scene in map(world.scene, range(5000)) if not scene.counted)
    scene = next(s for s in pairs if s.objects[0].name == s.objects[1].name)
    one, two = scene.objects
    red, blue = (box(0.2, 0.2, name=one.name) for _ in range(2))
    red, blue = replace(red, colour=one.colour), replace(blue, colour=two.colour)
    assert match([blue, red], scene.objects) == [red, blue]
    assert match([blue], scene.objects) == [None, blue]
    other = replace(red, colour=next(c for c in COLOURS if c not in (one.colour, two.colour)))
    assert match([other, blue], scene.objects) == [other, blue]
    assert (
        match([replace(red, name=SHAPES[SHAPES.index(one.name) - 1])], scene.objects) == [None] * 2
    )


def test_relations_by_geometry() -> None:
    high, low, left, right = box(0.5, 0.2), box(0.55, 0.7), box(0.2, 0.5), box(0.7, 0.45)
    assert holds("above", high, low)
    assert not holds("above", low, high)
    assert not holds("left of", high, low)
    assert holds("below", low, high)
    assert holds("left of", left, right)
    assert holds("right of", right, left)
    inner, outer = box(0.52, 0.5, 0.24), box(0.5, 0.5, 0.6)
    assert holds("inside", inner, outer)
    assert not holds("inside", outer, inner)
    assert not holds("above", replace(inner, y=0.45), outer)
    assert not holds("inside", replace(inner, x=0.9), outer)
    standing, floating = box(0.5, 0.375), box(0.5, 0.2)
    assert holds("on", standing, box(0.5, 0.625))
    assert holds("above", standing, box(0.5, 0.625))
    assert not holds("on", floating, box(0.5, 0.625))
    assert not holds("on", replace(standing, x=0.9), box(0.5, 0.625))


def test_wilson_intervals() -> None:
    assert Rate(0, 0).interval == (0.0, 1.0)
    assert math.isnan(Rate(0, 0).accuracy)
    assert Rate(0, 0).to_dict()["accuracy"] is None
    assert Rate(8, 10).interval == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert Rate(10, 10).interval[1] == pytest.approx(1.0)
    assert 0.7 < Rate(10, 10).interval[0] < 0.73


class Stand:
    """A model and a judge in one: image i shows scene i, and the judge knows it by heart."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, blind: bool = False) -> None:
        self.world, self.blind = held_out(CONFIG), blind
        self.calls: list[tuple[int, int]] = []  # captions and seed of each
        monkeypatch.setattr(composition, "judge_images", self.find)
        monkeypatch.setattr(composition, "_REAL", 40)

    def generate(self, captions: list[str], seed: int) -> Tensor:
        self.calls.append((len(captions), seed))
        part = [self.world.scene(seed + i) for i in range(len(captions))]
        assert [scene.caption for scene in part] == captions
        return _pixels(self.world, part)

    def find(self, judge: Judge, images: Tensor) -> list[Detections]:
        some = [self.world.scene(i) for i in range(40)]
        real = _pixels(self.world, some)
        which = [int((real == image).flatten(1).all(dim=1).nonzero()[0]) for image in images]
        found = perfect([some[i] for i in which])
        return [replace(d, objects=()) for d in found] if self.blind else found


def _pixels(world: World, some: Sequence[Scene]) -> Tensor:
    pixels = torch.from_numpy(np.stack([world.render(scene, 32) for scene in some]))
    return pixels.permute(0, 3, 1, 2) / 127.5 - 1


def test_models_are_scored_on_held_out_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(monkeypatch)
    judge = Judge(JudgeConfig((8, 8, 8), (0, 0, 0)))
    result = evaluate_model(stand.generate, judge, CONFIG, n=25, batch=10)
    assert stand.calls == [(10, 0), (10, 10), (5, 20)]
    assert result.generated.scenes == 25
    assert result.real.scenes == 40
    assert all(rate.right == rate.total for rate in result.generated.rates().values())
    assert json.loads(json.dumps(result.to_dict()))["real"]["object"]["accuracy"] == 1
    assert "object" in str(result.generated)


def test_a_poor_judge_is_refused_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(monkeypatch, blind=True)
    judge = Judge(JudgeConfig((8, 8, 8), (0, 0, 0)))
    with pytest.raises(ValueError, match=r"only 0.0% of object right"):
        evaluate_model(stand.generate, judge, CONFIG, n=4, batch=2)
    assert stand.calls == [(2, 0)]  # found out before the rest is generated
    result = evaluate_model(stand.generate, judge, CONFIG, n=4, batch=2, trust=True)
    assert result.generated.object.right == 0


def test_check_judge_looks_at_each_of_the_four() -> None:
    good = score(perfect(scenes(100)), scenes(100))
    check_judge(good)
    for name in ("object", "colour", "background", "relation"):
        with pytest.raises(ValueError, match=f"96.0% of {name} right"):
            check_judge(replace(good, **{name: Rate(96, 100)}))
    check_judge(replace(good, binding=Rate(0, 10), relation=Rate(0, 0)))


def test_bad_input_is_said_in_one_sentence() -> None:
    some, judge = scenes(2), Judge(JudgeConfig((8, 8, 8), (0, 0, 0)))
    with pytest.raises(ValueError, match="1 image was judged for 2 scenes"):
        score(perfect(some[:1]), some)
    with pytest.raises(ValueError, match="at least one"):
        score([], [])
    with pytest.raises(ValueError, match="at least 1"):
        real_scores(judge, CONFIG, 0)
    for n, batch in ((0, 1), (1, 0), (-1, 8)):
        with pytest.raises(ValueError, match="at least 1"):
            evaluate_model(lambda c, s: torch.zeros(1), judge, CONFIG, n=n, batch=batch)
    with pytest.raises(ValueError, match="1 image was generated for 3 captions"):
        evaluate_model(lambda c, s: torch.zeros(1, 3, 32, 32), judge, CONFIG, n=3)
    thing = replace(some[0].objects[0], kind="emoji")
    emoji = replace(some[0], objects=(thing,))
    with pytest.raises(ValueError, match="shapes only"):
        score(perfect([emoji]), [emoji])
