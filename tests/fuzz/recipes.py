"""Recipes in TOML with values, keys or bytes spoiled: what they would take, and a step of some."""

from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Case, Good
from tests.fuzz.hostile import TOML, document, replace, spoil_bytes
from tests.tiny import tiny_recipe
from unclip.config import dump_toml, to_mapping
from unclip.stages.catalogue import STAGES

_ONE_STEP = ("--training.steps", "1", "--training.batch-size", "2", "--training.accumulation", "1")


@cache
def good_recipe(stage: str) -> dict[str, Any]:
    """A tiny recipe that suits the tiny model, as a mapping."""
    size = 16 if stage in ("distilled-decoder", "few-step-decoder") else 32
    return {"stage": stage, **to_mapping(tiny_recipe(stage, data={"size": size}))}


def make(random: Random, place: Path, good: Good) -> Case:
    stage = random.choice(list(STAGES))
    table = random.choice(("network", "network", "data", "training", "optimiser", ""))
    recipe = dict(good_recipe(stage))
    if table:  # a spot in this table
        text, said = document(random, {table: recipe.pop(table)}, TOML, dump_toml)
        text = f"{dump_toml(recipe)}\n{text}"
    else:
        text, said = document(random, recipe, TOML, dump_toml)
    file = place / "recipe.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    if stage == "upsampler" and random.random() < 0.3:  # whose defaults, too, are quick
        said = random.choice((replace, spoil_bytes))(random, file)
    good.copy("model", place)
    words = ("train", stage, "--model", "model", "--recipe", "recipe.toml", "--run", "run")
    if table in ("data", "training", "optimiser") and random.random() < 0.3:
        return Case(f"{stage} {said}", (*words, "--overwrite", *_ONE_STEP), writes=("model",))
    return Case(f"{stage} {said} (dry run)", (*words, "--dry-run"))
