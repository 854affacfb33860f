"""Recipes that come with the package, and what a file of recipes holds.

A file is a recipe of one stage (`stage`, and the tables network, data, training and optimiser), or
has recipes of several, each under its stage's name: `[clip.network]`.
"""

from pathlib import Path
from typing import Any

from unclip.checks import printable, shown
from unclip.config import read_toml, suggest

RECIPES = {
    # name: what it is for
    "small": "two CPU cores and an hour, hundreds to ten thousand images of 32 px and more",
    "medium": "one GPU and a day or more, ten thousand images of 256 px and more",
    "paper": "the paper's sizes and hyperparameters (table 3): hundreds of GPUs",
}
TABLES = frozenset(("network", "data", "training", "optimiser"))  # of one recipe
_FOLDER = Path(__file__).parents[1] / "assets" / "recipes"


def recipe_file(name: str | Path) -> Path:
    """Where a recipe is that is named, or given as a path ("./small" is one).

    Raises:
        ValueError: a word that is neither a recipe's name nor a file.
    """
    if isinstance(name, str) and name in RECIPES:
        return _FOLDER / f"{name}.toml"
    if not str(name):
        raise ValueError(f"the recipe's name is empty; give {', '.join(RECIPES)} or a TOML file")
    path = Path(name)
    if len(path.parts) == 1 and not path.suffix and not path.exists():
        raise ValueError(
            f"there is no recipe {shown(str(name))}{suggest(str(name), RECIPES)}; or give the path "
            "of a TOML file"
        )
    return path


def recipe_of(name: str | Path, stage: str) -> dict[str, Any]:
    """What the recipe of this name, or this file, says of a stage.

    Raises:
        ValueError: there is none, or it is of other stages.
    """
    file = recipe_file(name)
    mapping = read_toml(file)
    if isinstance(mapping.get(stage), dict):
        return dict(mapping[stage])
    tables = [one for one in mapping.values() if isinstance(one, dict) and one.keys() <= TABLES]
    if mapping and len(tables) == len(mapping) and not mapping.keys() & TABLES:
        there = ", ".join(map(shown, mapping))
        raise ValueError(f"{printable(str(name))} has recipes for {there}, not for {stage!r}")
    whose = mapping.pop("stage", stage)
    if whose != stage:
        raise ValueError(f"{file} is a recipe for {shown(whose)}, not for {stage!r}")
    return mapping
