"""Edits measured: the wanted scenes, perfect and wrong findings, a whole tiny run."""

from dataclasses import replace

import pytest
import torch

from unclip import Pipeline
from unclip.data.world.scene import WorldConfig
from unclip.data.world.scenery import visible_colours
from unclip.evaluation.judge.network import Detections, Judge
from unclip.evaluation.metrics.composition import held_out
from unclip.evaluation.studies import edits
from unclip.evaluation.studies.edits import (
    ATTRIBUTES,
    EDITS,
    TWO,
    Case,
    agreement,
    case,
    evaluate_edits,
    images_made,
    score_edits,
    score_kept,
    single,
)

CONFIG = single(WorldConfig())
N = 300


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    world = held_out(CONFIG)
    return [case(world.scene(i), EDITS[i % 4], CONFIG) for i in range(N)]


def test_a_case_changes_one_attribute_or_two_in_scene_and_caption(cases: list[Case]) -> None:
    for one in cases:
        (old,), (new,) = one.scene.objects, one.wanted.objects
        behind = one.wanted.background
        differs = {
            "object": old.name != new.name,
            "colour": old.colour != new.colour,
            "background": (one.scene.background.kind, one.scene.background.colours)
            != (behind.kind, behind.colours),
        }
        changed = [name for name in ATTRIBUTES if differs[name]]
        assert changed == ([one.edit] if one.edit != TWO else list(one.attributes))
        assert len(changed) == (2 if one.edit == TWO else 1)
        assert new.colour in visible_colours(behind.kind, behind.colours)
        was, becomes = one.captions
        assert was != becomes
        assert new.name in becomes
        assert new.colour in becomes


def test_captions_are_worded_as_the_worlds_own(cases: list[Case]) -> None:
    """Edited back to the scene's own shape, the caption is the scene's again."""
    for one in cases[::4]:
        two = (one.wanted.objects[0].name, one.scene.objects[0].name)
        back = case(one.wanted, "object", replace(CONFIG, shapes=two))
        assert back.wanted.plain_caption == one.scene.plain_caption


def test_wanted_scenes_score_full_marks(cases: list[Case]) -> None:
    scores = score_edits([Detections.of(one.wanted) for one in cases], cases)
    for name in EDITS:
        assert scores[name].success.total == N // 4
        assert {rate.accuracy for rate in vars(scores[name]).values()} == {1.0}


def test_one_of_two_changes_is_not_enough(cases: list[Case]) -> None:
    twice = [one for one in cases if one.edit == TWO]
    assert {one.attributes for one in twice} == {
        ("object", "colour"), ("object", "background"), ("colour", "background")
    }  # fmt: skip
    first = [case(one.scene, one.attributes[0], CONFIG) for one in twice]
    scores = score_edits([Detections.of(one.wanted) for one in first], twice)
    assert list(scores) == [TWO]
    assert (scores[TWO].changed.accuracy, scores[TWO].kept.accuracy) == (0, 1)


def test_nothing_done_keeps_all_and_changes_nothing(cases: list[Case]) -> None:
    scores = score_edits([Detections.of(one.scene) for one in cases], cases)
    for score in scores.values():
        rates = (score.changed.accuracy, score.kept.accuracy, score.success.accuracy)
        assert rates == (0, 1, 0)


def test_a_changed_attribute_does_not_excuse_a_lost_one(cases: list[Case]) -> None:
    """Edits that make the background black as well: of all but the black ones, none succeeds."""
    found = [
        replace(Detections.of(one.wanted), background="flat", background_colours=("black",))
        for one in cases
    ]
    black = [
        one.wanted.background.colours == ("black",) and one.wanted.background.kind == "flat"
        for one in cases
    ]
    scores = score_edits(found, cases)
    for name in ("object", "colour"):
        count = sum(b for b, one in zip(black, cases, strict=True) if one.edit == name)
        assert scores[name].changed.accuracy == 1
        assert scores[name].kept.right == scores[name].success.right == count
    assert scores["background"].kept.accuracy == 1


def test_what_is_kept(cases: list[Case]) -> None:
    scenes = [one.scene for one in cases]
    assert {r.accuracy for r in score_kept(list(map(Detections.of, scenes)), scenes).values()} == {
        1
    }
    rates = score_kept([Detections.of(one.wanted) for one in cases], scenes)
    assert [rates[name].right for name in (*ATTRIBUTES, "all")] == [175, 175, 175, 0]
    assert agreement(Detections((), "sea"), scenes[0])["object"] is False


def test_worlds_without_another_value_are_refused() -> None:
    world = held_out(CONFIG)
    scene = world.scene(0)
    with pytest.raises(ValueError, match="this world has no other object for: a"):
        case(scene, "object", replace(CONFIG, shapes=(scene.objects[0].name,)))
    with pytest.raises(ValueError, match="unknown edit 'size'; known: background, colour"):
        case(scene, "size", CONFIG)


def test_a_whole_run(pipe: Pipeline, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image is made, counted, and brought to the judge beside the right scene."""
    seen: list[torch.Tensor] = []
    n, thetas = 3, (0.0, 0.5, 0.0)  # the second 0 counts once

    def look(judge: Judge, images: torch.Tensor) -> list[Detections]:
        seen.append(images)
        return [Detections((), "sea")] * len(images)

    monkeypatch.setattr(edits, "judge_images", look)
    done: list[int] = []
    result = evaluate_edits(
        pipe, judge, CONFIG, n, thetas, steps=2, batch=2, trust=True, progress=done.append
    )
    assert sum(done) == images_made(n, thetas[:2])
    assert result.scenes == n
    assert list(result.edits) == ["inverted", "fresh"]
    assert result.edits["fresh"][0.5]["colour"].success.total == 1
    assert result.variations["η = 1"]["all"].total == 3
    assert result.ends["θ = 0"]["all"].total == result.ends["θ = 1"]["all"].total == 1
    assert result.best("fresh", "object") == 0
    # θ = 0 from inverted latents is the reconstruction, which the blend begins and ends with; it is
    # computed beside guided ones, in sums of another order.
    rebuilt, _, one, _, two, _, ends = seen[:7]
    assert torch.allclose(one[0], rebuilt[0], atol=1e-4)
    assert torch.allclose(two[0], rebuilt[1], atol=1e-4)
    assert torch.equal(ends, rebuilt)


def test_bad_requests(pipe: Pipeline, judge: Judge) -> None:
    for given, says in (
        ({"n": 1}, "n is 1"),
        ({"batch": 0}, "batch is 0"),
        ({"thetas": ()}, "θ is left out"),
        ({"thetas": (0.2, 2.0)}, "θ is 0.2, 2.0"),
        ({"thetas": (float("nan"),)}, "θ is nan"),
        ({"n": 2}, "the judge gets only"),
    ):
        with pytest.raises(ValueError, match=says):
            evaluate_edits(pipe, judge, CONFIG, **given)
