"""Recipes that come with the package, and files of recipes."""

from pathlib import Path

import pytest

from unclip.stages.catalogue import STAGES
from unclip.stages.shipped import RECIPES, recipe_file, recipe_of
from unclip.stages.spec import load_recipe

WHOLE = ("clip", "prior", "decoder", "upsampler")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("stage", WHOLE)
def test_it_has_a_recipe_for_every_stage_of_a_model(name: str, stage: str) -> None:
    recipe = load_recipe(STAGES[stage], name)
    assert recipe != STAGES[stage].recipe
    assert recipe_file(name).read_text().startswith("# ")


@pytest.mark.parametrize(
    ("stage", "batch", "steps", "rate", "decay", "beta2", "eps", "ema"),
    [
        ("ar-prior", 4096, 1_000_000, 1.6e-4, 0.04, 0.91, 1e-10, 0.999),
        ("prior", 4096, 600_000, 1.1e-4, 0.06, 0.96, 1e-6, 0.9999),
        ("decoder", 2048, 800_000, 1.2e-4, 0.0, 0.999, 1e-8, 0.9999),
        ("upsampler", 1024, 1_000_000, 1.2e-4, 0.0, 0.999, 1e-8, 0.9999),
        ("upsampler-1024", 512, 1_000_000, 1e-4, 0.0, 0.999, 1e-8, 0.9999),
    ],
)
def test_the_papers_recipe_is_table_3(
    stage: str, batch: int, steps: int, rate: float, decay: float, beta2: float, eps: float,
    ema: float,
) -> None:  # fmt: skip
    recipe = load_recipe(STAGES[stage], "paper")
    training, optimiser = recipe.training, recipe.optimiser
    assert (training.batch_size, training.steps, training.ema) == (batch, steps, ema)
    assert (optimiser.learning_rate, optimiser.weight_decay) == (rate, decay)
    assert (optimiser.beta2, optimiser.eps) == (beta2, eps)
    assert recipe.network.size == "paper"
    assert getattr(recipe.network, "dropout", 0) == (
        0.1 if stage in ("decoder", "upsampler") else 0
    )


def test_a_file_may_have_recipes_of_several_stages(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[clip.training]\nsteps = 3\n[prior.data]\nsize = 16\n")
    assert load_recipe(STAGES["clip"], file).training.steps == 3
    assert recipe_of(file, "prior") == {"data": {"size": 16}}
    with pytest.raises(ValueError, match="has recipes for 'clip', 'prior', not for 'decoder'"):
        recipe_of(file, "decoder")


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small").write_text("[training]\nsteps = 7\n")
    assert recipe_of("./small", "clip") == {"training": {"steps": 7}}
    assert recipe_of("small", "clip")["network"]["size"] == "small"
    with pytest.raises(ValueError, match="there is no recipe 'papers'; did you mean 'paper'"):
        recipe_file("papers")
