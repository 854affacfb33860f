"""Inpainting measured: what is hidden, perfect and wrong findings, seams, a whole tiny run."""

import math
from dataclasses import replace
from itertools import islice

import pytest
import torch

from unclip import Pipeline
from unclip.data.world.scene import Scene, WorldConfig
from unclip.evaluation.judge.network import Detections, Judge
from unclip.evaluation.metrics.composition import held_out
from unclip.evaluation.studies import repainting
from unclip.evaluation.studies.repainting import (
    Box,
    box_of,
    evaluate_inpainting,
    hidden_scenes,
    jump,
    pairs,
    score_repainted,
)

CONFIG = pairs(WorldConfig())
N, SIZE = 100, 64


@pytest.fixture(scope="module")
def hidden() -> list[tuple[Scene, Box]]:
    return list(islice(hidden_scenes(held_out(CONFIG), SIZE), N))


def test_boxes_hide_all_of_one_object_and_nothing_of_the_other(
    hidden: list[tuple[Scene, Box]],
) -> None:
    """Outside the box the scene looks like one without the object; in the other's, as before."""
    world = held_out(CONFIG)
    for scene, (x0, y0, x1, y1) in hidden[:20]:
        truth = torch.from_numpy(world.render(scene, SIZE)).int()
        alone = replace(scene, objects=scene.objects[:1], relation=None)
        without = torch.from_numpy(world.render(alone, SIZE)).int()
        changed = (truth != without).any(dim=-1)
        assert changed[y0:y1, x0:x1].any()
        changed[y0:y1, x0:x1] = False
        assert not changed.any()
        a0, b0, a1, b1 = box_of(scene.objects[0], SIZE)
        assert x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0


def test_true_scenes_score_full_marks(hidden: list[tuple[Scene, Box]]) -> None:
    scenes = [scene for scene, _ in hidden]
    score = score_repainted([Detections.of(scene) for scene in scenes], scenes, 0, 0)
    assert {rate.accuracy for rate in score.rates().values()} == {1.0}
    assert score.exact.total == N


def test_what_is_missing_wrong_or_too_much_counts(hidden: list[tuple[Scene, Box]]) -> None:
    scenes = [scene for scene, _ in hidden if len({o.name for o in scene.objects}) == 2]
    found = [Detections.of(scene) for scene in scenes]

    def scored(kept: slice, repeat: int = 1) -> dict[str, float]:
        seen = []
        for one, scene in zip(found, scenes, strict=True):
            by_name = {thing.name: thing for thing in one.objects}
            objects = tuple(by_name[thing.name] for thing in scene.objects[kept]) * repeat
            seen.append(replace(one, objects=objects))
        rates = score_repainted(seen, scenes, 0, 0).rates()
        return {name: rate.accuracy for name, rate in rates.items() if rate.total}

    assert scored(slice(1)) == {"object": 0, "kept": 1, "background": 1, "exact": 0}
    assert scored(slice(1, 2)) == {
        "object": 1, "colour": 1, "kept": 0, "background": 1, "exact": 0
    }  # fmt: skip
    assert scored(slice(2), repeat=2)["exact"] == 0


def test_a_jump_is_that_across_the_border() -> None:
    image = torch.zeros(3, 8, 8)
    image[:, 2:5, 3:6] = 7
    assert jump(image, (3, 2, 6, 5)) == 7
    assert jump(image, (0, 0, 8, 2)) == 0  # one side, row 1 to row 2: 7 at three of eight pixels
    assert jump(image, (3, 2, 6, 3)) == 7  # at five of eight
    assert jump(image, (0, 5, 3, 8)) == 0
    assert math.isnan(jump(image, (0, 0, 8, 8)))


def test_a_whole_run(pipe: Pipeline, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the box is painted, and every image comes to the judge beside its own scene."""
    seen: list[torch.Tensor] = []

    def look(judge: Judge, images: torch.Tensor) -> list[Detections]:
        seen.append(images)
        return [Detections((), "sea")]

    monkeypatch.setattr(repainting, "judge_images", look)
    steps: list[int] = []
    result = evaluate_inpainting(pipe, judge, CONFIG, 2, trust=True, progress=steps.append)
    assert sum(steps) == 2 * pipe.inpainting_steps(repainting.Settings())
    assert result.object.total == result.exact.total == 2
    world = held_out(CONFIG)
    for images, (scene, (x0, y0, x1, y1)) in zip(seen, hidden_scenes(world, 32), strict=False):
        truth = torch.from_numpy(world.render(scene, 32)).permute(2, 0, 1)
        made = ((images[0] + 1) * 127.5).round().to(torch.uint8)
        same = (made == truth).all(dim=0)
        assert not same[y0:y1, x0:x1].all()
        same[y0:y1, x0:x1] = True
        assert same.all()


def test_bad_requests(pipe: Pipeline, judge: Judge) -> None:
    with pytest.raises(ValueError, match="0 scenes were asked for"):
        evaluate_inpainting(pipe, judge, CONFIG, 0)
    with pytest.raises(ValueError, match="the judge gets only"):
        evaluate_inpainting(pipe, judge, CONFIG, 2)
