"""Every recipe in recipes/ resolves, and trains two steps when it is scaled down."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_recipe
from unclip.config import merge, read_toml, to_mapping
from unclip.interfaces.cli.commands.train import SPECS
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.recipe import open_data
from unclip.stages.spec import load_recipe, parse_recipe
from unclip.storage.folder import ModelFolder
from unclip.training.job import Folders
from unclip.training.start import start

FOLDER = Path(__file__).parents[2] / "recipes"
FILES = sorted(FOLDER.rglob("*.toml"))
_NETWORKS: dict[str, dict[str, Any]] = {
    "clip": {"size": "tiny", "captions": 50},
    "prior": {"num_layers": 1, "num_attention_heads": 2, "statistics": 4},
    "ar-prior": {"num_layers": 1, "num_attention_heads": 2, "statistics": 8, "buckets": 32},
    "decoder": {"widths": [16, 32], "layers": 1, "head_width": 16, "groups": 8},
    "distilled-decoder": {},
    "few-step-decoder": {},
    "upsampler": {"widths": [16, 32], "layers": 1, "groups": 8},
    "upsampler-1024": {"widths": [16, 32], "layers": 1, "groups": 8},
    "judge": {"widths": [8, 16, 16]},
}


def test_there_are_recipes() -> None:
    assert {read_toml(file)["stage"] for file in FILES} == set(SPECS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_trains(file: Path, tiny_model: Path, tmp_path: Path) -> None:
    spec = SPECS[read_toml(file)["stage"]]
    whole = load_recipe(spec, file)
    small = {
        "network": _NETWORKS[spec.name],
        "data": {"workers": 0},
        "training": {"steps": 2, "batch_size": 4, "accumulation": 1, "precision": "fp32"},
    }
    recipe = parse_recipe(spec, merge(to_mapping(whole), small), file.name)
    assert recipe.optimiser == whole.optimiser
    model = ModelFolder(tmp_path / "model")
    FrozenCLIP.load(ModelFolder(tiny_model)).save(model)
    if spec.name in ("distilled-decoder", "few-step-decoder"):  # of this one
        taught = tiny_recipe(
            "decoder", network={"prediction_type": "sample"}, training={"steps": 1}
        )
        assert start(SPECS["decoder"], taught, Folders(model.path, tmp_path / "first"), "cpu") == 0
    where = Folders(model.path, tmp_path / "run", overwrite=True)
    assert start(spec, recipe, where, "cpu") == 0
    assert all(model.has(component) for component in spec.components)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_written_recipe_repeats_the_run(file: Path, tmp_path: Path) -> None:
    from unclip.config import dump_toml

    spec = SPECS[read_toml(file)["stage"]]
    recipe = load_recipe(spec, file)
    copy = tmp_path / "recipe.toml"
    copy.write_text(dump_toml({"stage": spec.name, **to_mapping(recipe)}))
    assert load_recipe(spec, copy) == recipe


def test_recipes_of_another_stage_and_unknown_tables(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('stage = "clip"\n')
    with pytest.raises(ValueError, match="is a recipe for 'clip', not for 'prior'"):
        load_recipe(SPECS["prior"], file)
    file.write_text("[trainig]\nsteps = 3\n")
    with pytest.raises(ValueError, match="unknown table 'trainig'"):
        load_recipe(SPECS["prior"], file)
    file.write_text("[training]\nstep = 3\n")
    with pytest.raises(ValueError, match=r"r\.toml: training: unknown key 'step'; did you mean"):
        load_recipe(SPECS["prior"], file)


def test_fields_of_the_world_that_would_be_ignored_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.size is the images' size"):
        parse_recipe(SPECS["clip"], {"data": {"world": {"size": 128}}}, "test")


@pytest.mark.parametrize(
    ("source", "kinds", "expected"),
    [
        ("emoji", ["shapes"], ("shapes",)),
        ("emoji:shapes", ["shapes", "emoji"], ("shapes",)),
        ("emoji:shapes", ["emoji"], ("shapes",)),
    ],
)
def test_the_sources_name_decides_what_is_drawn(
    source: str, kinds: list[str], expected: tuple[str, ...]
) -> None:
    data = {"source": source, "size": 32, "world": {"kinds": kinds, "seed": 7}}
    opened = open_data(parse_recipe(SPECS["clip"], {"data": data}, "test").data)
    assert opened.config.kinds == expected  # type: ignore[attr-defined]
    assert (opened.config.size, opened.config.seed) == (32, 7)  # type: ignore[attr-defined]
