"""What `unclip train all` decides by itself: from the data, and from how long a step takes here.

A recipe says how networks are trained, and how large images, batches and vocabulary may be at most.
What is too much for the data is lowered here; the steps are what the time allows. Whoever wants it
otherwise gives `unclip train STAGE` the flags.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from unclip.checks import many, shown
from unclip.data.captions import ENDLESS
from unclip.data.sources import Source, Stream, length
from unclip.stages.recipe import Data, Recipe
from unclip.tokenizer import Tokenizer

Recipes = dict[str, Recipe[Any]]


@dataclass(frozen=True)
class Share:
    """What a stage gets.

    Attributes:
        time: of the budget, beside the others' shares.
        epochs: at most. Beyond them a stage only learns its images by heart: what it leaves goes to
            the others.
        steps: that are made whatever the epochs, where there is time: from fewer nothing is learned
            of a few images either.
    """

    time: float
    epochs: float
    steps: int


# In the order of training. The decoder is last: it is what takes long, and gets what others leave.
# Decided on 1,911 pictures of 64 px (docs/experiments.md).
SHARES = {
    # Tells pictures that it has not seen apart best after some seventeen epochs of 1,800.
    "clip": Share(0.12, 20, 80),
    # Predicts embeddings that it has not seen best after five to seven epochs of 1,800 captions.
    "prior": Share(0.13, 8, 30),
    # Learns edges, which are alike everywhere.
    "upsampler": Share(0.10, 100, 500),
    # Makes the pictures. On those that it has not seen it is best after 25 to 52 epochs of 1,800.
    "decoder": Share(0.60, 60, 1500),
}
STAGES = tuple(SHARES)
FEW_EPOCHS = 3  # of the decoder: after fewer, colours have come and forms have not
MANY_EPOCHS = 120  # of the decoder: beyond, it knows its images themselves
TUNING = 0.05  # of the budget, for the sweep of sampling's settings at the end
# Of a stage's steps: after each of them those that are still to come are decided anew, by what the
# last ones took. What was measured before anything began can be wrong several times over on a
# machine that does other things too. The learning rate falls in the last half.
LAPS = (0.05, 0.5, 1.0)
_WORTH = 60.0  # seconds of a stage that is trained in laps
_SPENT = 0.9  # of a stage's time is steps; checkpoints, previews and validation take the rest

SMALLEST_DATA = 8  # images
SMALLEST = 16  # pixels of a side that a decoder draws
LEAST = 10  # steps of a stage
_ENOUGH = 0.9  # of the images are at least as large as what is drawn; the others are enlarged
_READ = 20_000  # captions that are looked at
_TOKENS = (16, 77)  # that CLIP reads of a caption, at least and at most
_BYTES = 514  # tokens of a vocabulary without merges
_CLIP_BATCHES, _BATCHES = 8, 4  # of them in an epoch, at least


@dataclass(frozen=True)
class Facts:
    """What is known of the data.

    Attributes:
        images: that are trained on; 0 where they have no end.
        side: shorter side, pixels, that most of them have; 0 where they are drawn at any size.
        captions: some of them, at most `_READ`.
    """

    images: int
    side: int
    captions: tuple[str, ...]

    @classmethod
    def of(cls, source: Source | Stream) -> "Facts":
        """Of data that was opened.

        Raises:
            ValueError: there is too little of it to learn from.
        """
        images = length(source)
        captions = tuple(islice(source.captions(), _READ if images < ENDLESS else 1000))
        if images < SMALLEST_DATA:
            held_out = source.check().held_out
            kept = f" beside the {held_out} held out" if held_out else ""
            raise ValueError(
                f"{many(images, 'images are')} too few to learn from{kept}; give {SMALLEST_DATA} "
                "at least, and some hundred to make what is not among them"
            )
        if len(set(captions)) < 2:
            raise ValueError(
                f"all {images} images have the caption {shown(captions[0])}; from one caption "
                "alone no words are learned"
            )
        sides = sorted(getattr(source, "shorter_sides", list)(), reverse=True)
        side = sides[int(_ENOUGH * (len(sides) - 1))] if sides else 0
        return cls(0 if images >= ENDLESS else images, side, captions)

    @property
    def vocabulary(self) -> int:
        """Tokens that suit the captions: one for each word that occurs twice, beside the bytes."""
        words = Counter(word for one in self.captions for word in one.lower().split())
        return _BYTES + sum(count > 1 for count in words.values())

    def context(self, vocabulary: int) -> int:
        """Tokens of the longest caption, with such a vocabulary, to a multiple of 8."""
        tokenizer = Tokenizer.train(list(self.captions), vocabulary, _TOKENS[1])
        needed = int(tokenizer(list(self.captions)).mask.sum(dim=1).max())
        return max(_TOKENS[0], min(-(-needed // 8) * 8, _TOKENS[1]))


def suited(recipes: Mapping[str, Recipe[Any]], data: Data, facts: Facts) -> Recipes:
    """The recipes for this data: sizes, batches, vocabulary. Without an upsampler where there is
    nothing to enlarge to.

    Args:
        data: where the images come from; its `size` decides nothing.

    Raises:
        ValueError: the images are smaller than anything that is drawn.
    """
    sizes, factor = _sizes({name: one.data.size for name, one in recipes.items()}, facts.side)
    vocabulary = min(recipes["clip"].network.vocab_size, -(-facts.vocabulary // 256) * 256)
    networks: dict[str, dict[str, Any]] = {
        "clip": {"vocab_size": vocabulary, "context_length": facts.context(vocabulary)},
        "upsampler": {"factor": factor},
    }
    made: Recipes = {}
    for name in (name for name in STAGES if name in sizes):
        recipe, size = recipes[name], sizes[name]
        made[name] = replace(
            recipe,
            network=replace(recipe.network, **networks.get(name, {})),
            data=replace(data, size=size, workers=recipe.data.workers),
            training=_batch(recipe.training, name, facts.images),
        )
    return made


def _sizes(most: Mapping[str, int], side: int) -> tuple[dict[str, int], int]:
    """Pixels of a side for each stage, and how often the upsampler enlarges (1: not at all).

    Halved from the recipe's until the images have it; enlarged by doubling as long as they do.
    """
    sizes = {name: _halved(most[name], side) for name in ("clip", "prior", "decoder")}
    drawn = sizes["decoder"]
    if drawn < SMALLEST:
        raise ValueError(
            f"most images are {side} pixels a side: too small to learn from; give images of "
            f"{SMALLEST} pixels or more"
        )
    large = _halved(most["upsampler"], side)
    factor = large // drawn
    if factor > 1 and large % drawn == 0:
        return sizes | {"upsampler": large}, factor
    return sizes, 1


def _halved(size: int, side: int) -> int:
    while side and size > side and size % 2 == 0:
        size //= 2
    return size


def _batch(training: Any, stage: str, images: int) -> Any:
    """The batch, smaller where the images are few: CLIP learns by telling them apart, and the
    others see a batch of repeated images as one of few."""
    if not images:
        return training
    most = max(2, images // (_CLIP_BATCHES if stage == "clip" else _BATCHES))
    if training.batch_size <= most:
        return training
    return replace(training, batch_size=most, accumulation=1)


def allotted(
    recipes: Mapping[str, Recipe[Any]], seconds: Mapping[str, float], images: int, budget: float
) -> dict[str, int]:
    """Steps of each of these stages, of so many seconds a step, within a budget of seconds."""
    steps: dict[str, int] = {}
    left, shares = budget, TUNING + sum(SHARES[name].time for name in recipes)
    for name in sorted(recipes, key=lambda name: SHARES[name].time):  # the largest gets the rest
        share = SHARES[name]
        count = int(_SPENT * left * share.time / shares / seconds[name])
        steps[name] = within(name, count, recipes[name], images)
        left, shares = left - seconds_of(steps[name], seconds[name]), shares - share.time
    return {name: steps[name] for name in recipes}


def within(stage: str, steps: int, recipe: Recipe[Any], images: int) -> int:
    """So many steps, but no more than the stage's epochs, and no fewer than a few."""
    if images:
        share = SHARES[stage]
        enough = round(share.epochs * images / recipe.training.batch_size)
        steps = min(steps, max(enough, share.steps))
    return max(steps, LEAST)


def seconds_for(stage: str, stages: Iterable[str], left: float) -> float:
    """A stage's part of the seconds that are left for these stages and the tuning."""
    return left * SHARES[stage].time / (TUNING + sum(SHARES[name].time for name in stages))


def laps_of(seconds: float) -> tuple[float, ...]:
    """`LAPS` of a stage that gets so many seconds: one, where a second start would take too many
    of them."""
    return LAPS if seconds >= _WORTH else (1.0,)


def seconds_of(steps: int, seconds: float) -> float:
    """Of a stage of so many steps, of so many seconds each, with what comes beside them."""
    return steps * seconds / _SPENT


def check_budget(budget: float, seconds: Mapping[str, float]) -> None:
    """Refuse a budget in which a stage would not take a few steps.

    Raises:
        ValueError: it is too short; the message says what would do.
    """
    shares = TUNING + sum(SHARES[name].time for name in seconds)
    needed = {n: seconds_of(LEAST, one) * shares / SHARES[n].time for n, one in seconds.items()}
    slowest = max(needed, key=lambda name: needed[name])
    least = needed[slowest]
    if least > budget:
        enough = f"{int(least) + 1}s" if least < 90 else f"{int(least / 60) + 1}m"
        raise ValueError(
            f"--budget of {budget:.0f} seconds is too short: a step of the {slowest} takes "
            f"{seconds[slowest]:.2g} s on this machine; give {enough} or more"
        )


def with_steps(recipe: Recipe[Any], steps: int, seconds: float) -> Recipe[Any]:
    """The recipe of a run of so many steps, of so many seconds each: what goes by the length of a
    run (average, warm-up) follows it, and so does how often something is written."""
    training, optimiser = recipe.training, recipe.optimiser
    return replace(
        recipe,
        training=replace(
            training,
            steps=steps,
            ema=min(training.ema, max(0.0, 1 - 20 / steps)),  # the mean of a twentieth of the run
            log_every=max(1, min(training.log_every, steps // 10)),
            preview_every=steps // 4 if training.preview_every else 0,
            checkpoint_every=max(1, min(steps, int(_KEPT / max(seconds, 1e-6)))),
        ),
        optimiser=replace(optimiser, warmup=min(optimiser.warmup, steps // 10)),
    )


_KEPT = 120.0  # seconds between two checkpoints: what a kill costs
