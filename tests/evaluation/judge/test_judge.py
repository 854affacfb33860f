"""The judge: labels lose nothing, it learns, and the bundled one is right on real scenes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.batch import on_device
from unclip.data.batches import Order, batches
from unclip.data.world.scene import BACKGROUNDS, COLOURS, SHAPES, WorldConfig
from unclip.data.world.world import World
from unclip.evaluation.judge.network import (
    SIDE,
    Detections,
    Judge,
    JudgeConfig,
    Maps,
    decode,
    encode,
    judge_images,
    label,
    load_judge,
    resize,
)
from unclip.evaluation.judge.training import SPEC, JudgeStage, LabelledScenes, blemish
from unclip.evaluation.metrics.composition import check_judge, real_scores
from unclip.stages.recipe import Data
from unclip.stages.spec import load_recipe
from unclip.storage.folder import ModelFolder, bundled

TINY = JudgeConfig((8, 16, 16), (0, 1, 0))
RECIPE = Path(__file__).parents[3] / "recipes" / "bundled-judge.toml"


def ideal(objects: Tensor, background: Tensor, spread: int = 0) -> Maps:
    """The maps of a judge that is always right, and as sure up to `spread` cells from a centre."""
    targets = encode(objects)
    kind, colours = background[:, 0], background[:, 1:]
    present = (colours[..., None] == torch.arange(len(COLOURS))).any(dim=1)
    return Maps(
        torch.where(targets.distance <= spread, 9.0, -9.0),
        F.one_hot(targets.shape.clamp(min=0), len(SHAPES)).movedim(-1, 2).float(),
        F.one_hot(targets.colour.clamp(min=0), len(COLOURS)).movedim(-1, 2).float(),
        targets.place,
        F.one_hot(kind, len(BACKGROUNDS)).float(),
        present.float(),
    )


def as_set(found: Detections) -> tuple[object, ...]:
    objects = sorted(
        (o.name, o.colour, *(round(v, 4) for v in (o.x, o.y, o.extent))) for o in found.objects
    )
    return objects, found.background, sorted(found.background_colours)


@pytest.mark.parametrize("spread", [0, 1])
def test_ideal_maps_decode_to_the_ground_truth(spread: int) -> None:
    for split, most in (("train", 2), ("held-out", 4)):
        world = World(WorldConfig(split=split, max_objects=most, styles=("plain",)))
        scenes = [world.scene(i) for i in range(1500)]
        objects, background = (torch.stack(part) for part in zip(*map(label, scenes), strict=True))
        found = decode(ideal(objects, background, spread))
        assert [as_set(one) for one in found] == [as_set(Detections.of(s)) for s in scenes]


def test_detections_come_surest_first_and_below_the_threshold_not_at_all() -> None:
    world = World(WorldConfig(min_objects=2, max_objects=2, relations=("above",)))
    scene = next(s for i in range(100) if (s := world.scene(i)).relation)
    objects, background = label(scene)
    maps = ideal(objects[None], background[None])
    surer = encode(objects[None, 1:]).distance == 0
    maps = maps._replace(objectness=torch.where(surer, 12.0, maps.objectness))
    (found,) = decode(maps)
    assert [one.name for one in found.objects] == [o.name for o in scene.objects[::-1]]
    assert found.objects[0].confidence > found.objects[1].confidence > 0.9
    assert len(decode(maps, threshold=0.9999)[0].objects) == 1
    assert decode(maps._replace(objectness=torch.full_like(maps.objectness, -9)))[0].objects == ()


def test_labels_come_along_with_the_batches() -> None:
    source = LabelledScenes.open(Data(source="emoji:shapes", world=WorldConfig(max_objects=2)))
    plain = next(batches(source, Order.of(source), 6))
    worked = next(batches(source, Order.of(source), 6, num_workers=1))
    assert plain["images"].shape == (6, 3, SIDE, SIDE)
    assert plain["objects"].shape == (6, 4, 6)
    for key in ("images", "objects", "background"):
        assert torch.equal(plain[key], worked[key])
    scene = source.scene(3)
    assert plain["captions"][3] == scene.caption
    assert torch.equal(plain["objects"][3], label(scene)[0])


def test_scenes_with_one_object_inside_another_are_not_rare() -> None:
    source = LabelledScenes.open(Data(source="emoji:shapes", world=WorldConfig(max_objects=2)))
    relations = [source.scene(i).relation for i in range(800)]
    assert relations.count("inside") > 80
    alone = WorldConfig(max_objects=1)
    assert LabelledScenes(alone).scene(0) == World(replace(alone, size=SIDE)).scene(0)


def test_a_few_steps_reduce_the_loss_and_repeat_exactly() -> None:
    torch.manual_seed(0)
    source = LabelledScenes.open(Data(source="emoji:shapes", world=WorldConfig(max_objects=2)))
    batch = on_device(next(batches(source, Order.of(source), 16)), torch.device("cpu"))
    stage = JudgeStage(Judge(TINY).initialise())
    optimiser = torch.optim.Adam(stage.network.parameters(), lr=1e-2)
    history = []
    for _ in range(25):
        losses = stage.loss(batch, torch.Generator().manual_seed(0))
        losses["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        history.append(float(losses["loss"].detach()))
    assert history[-1] < 0.6 * history[0]
    again = [stage.loss(batch, torch.Generator().manual_seed(1))["loss"] for _ in range(2)]
    assert torch.equal(*again)


def test_blemishes_are_mild_and_the_generators_alone() -> None:
    images = World()[0][0]
    clean = torch.from_numpy(images).permute(2, 0, 1)[None].repeat(8, 1, 1, 1) / 127.5 - 1
    state = torch.get_rng_state()
    one, other = (blemish(clean, torch.Generator().manual_seed(s)) for s in (0, 0))
    assert torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
    assert 0.0 < (one - clean).abs().mean() < 0.15
    assert not torch.equal(one[0], one[1])


def test_any_size_is_resized_alike() -> None:
    world = World(WorldConfig(styles=("plain",)))
    scene = world.scene(1)
    sizes = [torch.from_numpy(world.render(scene, s)).permute(2, 0, 1)[None] for s in (32, 128)]
    small, large = (resize(image.float()) for image in sizes)
    assert small.shape == large.shape == (1, 3, SIDE, SIDE)
    assert (small - large).abs().mean() < 8  # of 255


def test_saved_and_loaded_it_finds_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage = JudgeStage(Judge(TINY).initialise())
    stage.save(ModelFolder(tmp_path))
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    loaded = [load_judge(path) for path in (tmp_path, tmp_path / "judge")]
    assert loaded[0].config == TINY
    maps = [judge(resize(images)) for judge in (*loaded, stage.network.eval())]
    torch.testing.assert_close(maps[0], maps[1])
    torch.testing.assert_close(maps[0].shape, maps[2].shape, atol=2e-3, rtol=2e-3)
    assert len(judge_images(loaded[0], images, batch=2)) == 3
    assert judge_images(loaded[0], images[:0]) == []


def test_bad_input_is_said_in_one_sentence(tmp_path: Path) -> None:
    judge = Judge(TINY)
    with pytest.raises(ValueError, match="holds no judge"):
        load_judge(tmp_path)
    with pytest.raises(ValueError, match="square RGB"):
        judge_images(judge, torch.zeros(1, 3, 32, 64))
    with pytest.raises(ValueError, match="not finite"):
        judge_images(judge, torch.full((1, 3, 32, 32), torch.nan))
    with pytest.raises(ValueError, match="widths has 2 entries; it must have 3"):
        JudgeConfig(widths=(8, 8))
    with pytest.raises(ValueError, match="multiples of 8"):
        JudgeConfig(widths=(8, 8, 12))
    with pytest.raises(ValueError, match="ground truth"):
        LabelledScenes.open(Data(source="photos"))
    with pytest.raises(ValueError, match="shapes only"):
        LabelledScenes.open(Data(source="emoji:emoji"))
    JudgeStage(judge).save(ModelFolder(tmp_path))
    (tmp_path / "judge" / "config.json").write_text('{"_class_name": "Other"}')
    with pytest.raises(ValueError, match="no judge network"):
        load_judge(tmp_path)
    (tmp_path / "judge" / "config.json").write_text('{"_class_name": "Judge", "depth": 3}')
    with pytest.raises(ValueError, match="depth"):
        load_judge(tmp_path)


def test_the_recipe_is_the_stages() -> None:
    recipe = load_recipe(SPEC, RECIPE)
    assert recipe.data.world == replace(
        WorldConfig(), max_objects=2, textures=("plain",), styles=("plain",)
    )
    assert sum(p.numel() for p in Judge(recipe.network).parameters()) <= 1_500_000


@pytest.mark.skipif(not bundled("judge").is_dir(), reason="no judge is bundled")
@pytest.mark.parametrize("size", [32, 128])
def test_the_bundled_judge_is_right_on_real_held_out_scenes(size: int) -> None:
    world = load_recipe(SPEC, RECIPE).data.world
    real = real_scores(load_judge(), world, 300, size, first=50_000)
    check_judge(real)
    assert all(rate.accuracy >= 0.97 for rate in real.rates().values())
