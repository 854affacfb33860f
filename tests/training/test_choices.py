"""What `train all` decides from the data and the time."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unclip.data.folder import FolderSource
from unclip.stages.catalogue import STAGES as SPECS
from unclip.stages.recipe import Data, Recipe, open_data
from unclip.stages.spec import load_recipe
from unclip.training.choices import (
    LEAST,
    SHARES,
    STAGES,
    Facts,
    allotted,
    check_budget,
    seconds_of,
    suited,
    with_steps,
)

CAPTIONS = tuple(f"a {colour} {thing}" for colour in ("red", "blue") for thing in "abcdefgh")


def recipes(name: str = "small") -> dict[str, Recipe[Any]]:
    return {stage: load_recipe(SPECS[stage], name) for stage in STAGES}


def sized(side: int, name: str = "small") -> dict[str, int]:
    made = suited(recipes(name), Data("my-images"), Facts(1900, side, CAPTIONS))
    return {stage: one.data.size for stage, one in made.items()}


@pytest.mark.parametrize(
    ("side", "drawn", "enlarged"),
    [(16, 16, None), (32, 32, None), (48, 32, None), (64, 32, 64), (100, 32, 64), (512, 32, 128)],
)
def test_resolutions_follow_the_images(side: int, drawn: int, enlarged: int | None) -> None:
    sizes = sized(side)
    assert (sizes["clip"], sizes["prior"], sizes["decoder"]) == (drawn, drawn, drawn)
    assert sizes.get("upsampler") == enlarged


def test_the_upsampler_enlarges_what_the_decoder_draws() -> None:
    for side, factor in ((64, 2), (128, 4)):
        made = suited(recipes(), Data("my-images"), Facts(1900, side, CAPTIONS))
        assert made["upsampler"].network.factor == factor
        assert made["upsampler"].data.size == factor * made["decoder"].data.size
    assert sized(256, "medium")["upsampler"] == 256
    assert sized(64, "medium") == {"clip": 64, "prior": 64, "decoder": 64}


def test_images_too_small_to_draw_are_refused() -> None:
    with pytest.raises(ValueError, match="most images are 12 pixels a side"):
        sized(12)


def test_batches_leave_several_steps_in_an_epoch() -> None:
    few = suited(recipes(), Data("x"), Facts(24, 64, CAPTIONS))
    many = suited(recipes(), Data("x"), Facts(100_000, 64, CAPTIONS))
    endless = suited(recipes(), Data("emoji:shapes"), Facts(0, 0, CAPTIONS))
    assert few["clip"].training.batch_size == 3
    assert few["decoder"].training.batch_size == 6
    for large in (many, endless):
        assert large["clip"].training.batch_size == recipes()["clip"].training.batch_size


def test_vocabulary_and_context_are_those_of_the_captions() -> None:
    long = (*CAPTIONS, "word " * 30)
    short = suited(recipes(), Data("x"), Facts(100, 64, CAPTIONS))["clip"].network
    wordy = suited(recipes(), Data("x"), Facts(100, 64, long))["clip"].network
    assert short.context_length == 16
    assert wordy.context_length >= 32
    assert wordy.context_length % 8 == 0
    many = tuple(f"thing{k} thing{k}" for k in range(5000))
    assert suited(recipes(), Data("x"), Facts(5000, 64, many))["clip"].network.vocab_size == 2048
    assert short.vocab_size == 768


@dataclass
class Pictures:
    """A folder of plain images."""

    root: Path
    sides: list[int] = field(default_factory=list)

    def add(self, side: int, caption: str) -> None:
        name = f"{len(self.sides):03}"
        Image.new("RGB", (side, 2 * side)).save(self.root / f"{name}.png")
        (self.root / f"{name}.txt").write_text(caption)
        self.sides.append(side)


def test_facts_of_a_folder(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    for k in range(19):
        pictures.add(64 + k, f"picture {k}")
    pictures.add(20, "a small one")
    facts = Facts.of(FolderSource(tmp_path, 16))
    assert (facts.images, facts.side, len(facts.captions)) == (20, 65, 20)
    world = Facts.of(open_data(Data("emoji:shapes", size=32)))
    assert (world.images, world.side) == (0, 0)
    assert len(world.captions) == 1000


def test_data_that_teaches_nothing_is_refused(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    for _ in range(2):
        pictures.add(32, "a cat")
    with pytest.raises(ValueError, match="2 images are too few to learn from; give 8 at least"):
        Facts.of(FolderSource(tmp_path, 16))
    for _ in range(8):
        pictures.add(32, "a cat")
    kept = FolderSource(tmp_path, 16, split="train", held_out=0.6)
    said = f"{len(kept)} images are too few to learn from beside the {10 - len(kept)} held out"
    with pytest.raises(ValueError, match=said):
        Facts.of(kept)
    with pytest.raises(ValueError, match="all 10 images have the caption 'a cat'"):
        Facts.of(FolderSource(tmp_path, 16))


SECONDS = {"clip": 0.8, "prior": 0.5, "decoder": 0.6, "upsampler": 0.4}


@pytest.mark.parametrize("budget", [300.0, 3600.0, 7200.0])
def test_steps_fill_the_budget_and_no_more(budget: float) -> None:
    steps = allotted(recipes(), SECONDS, 200_000, budget)
    whole = sum(seconds_of(steps[name], SECONDS[name]) for name in STAGES)
    assert 0.9 * budget < whole <= budget
    assert steps["decoder"] * SECONDS["decoder"] > 0.5 * budget


def test_no_stage_learns_its_images_by_heart() -> None:
    """What a stage does not need, the decoder gets, up to what it needs."""
    made = recipes()
    few, some, many = (allotted(made, SECONDS, n, 3600.0) for n in (60, 4000, 200_000))
    epochs = some["prior"] * made["prior"].training.batch_size / 4000
    assert epochs == pytest.approx(SHARES["prior"].epochs, rel=0.05)
    assert some["decoder"] > many["decoder"]
    assert few == {name: SHARES[name].steps for name in few}


def test_a_stage_that_is_late_still_gets_a_few_steps() -> None:
    made = {"decoder": recipes()["decoder"]}
    assert allotted(made, SECONDS, 1900, -5.0) == {"decoder": LEAST}


def test_a_budget_that_is_too_short_is_refused_with_one_that_is_not() -> None:
    with pytest.raises(ValueError, match=r"budget of 20 seconds is too short.*give (\d+)s") as said:
        check_budget(20.0, SECONDS)
    enough = float(str(said.value).rpartition("give ")[2].partition("s or")[0])
    check_budget(enough, SECONDS)
    assert min(allotted(recipes(), SECONDS, 1900, enough).values()) >= LEAST


def test_what_goes_by_the_length_of_a_run_follows_its_steps() -> None:
    recipe = recipes()["decoder"]
    short, long = with_steps(recipe, 40, 1.0), with_steps(recipe, 100_000, 1.0)
    assert short.training.ema == 0.5
    assert long.training.ema == recipe.training.ema
    assert short.optimiser.warmup == 4
    assert long.optimiser == recipe.optimiser
    assert (short.training.checkpoint_every, long.training.checkpoint_every) == (40, 120)
    assert replace(short, training=recipe.training, optimiser=recipe.optimiser) == recipe
