"""What `unclip train all` was asked for, and how far it has come, as `all.json` keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from unclip.config import Between, Checked
from unclip.stages.recipe import Data, Recipe
from unclip.training.choices import Recipes, seconds_for, seconds_of, within

Seconds = Annotated[float, Between(0, 10**9)]
Whole = Annotated[int, Between(0, 2**62)]


@dataclass(frozen=True)
class Asked(Checked):
    """What `unclip train all` was asked for.

    Attributes:
        recipe: a name, or a file.
        budget: seconds for everything; None: the recipe's own steps.
        init: model from which decoder and upsampler start, where its sizes are theirs; "": none.
        tune: whether sampling is tuned at the end.
    """

    data: Data
    recipe: str = "small"
    budget: Seconds | None = None
    init: str = ""
    tune: bool = True


@dataclass(frozen=True)
class Progress(Checked):
    """What `all.json` holds.

    Attributes:
        images: of the data; 0 where they have no end.
        step: seconds of a step of each stage, measured before the first one began or, where it has
            run a lap, in that; none of those that are too large to be tried out.
        given: seconds that a stage was to take when it began.
        steps: of a stage that has begun within a budget, as decided at the start of its lap.
        laps: that a stage has run, of `choices.LAPS`.
        overwrite: whether what the model folder had before goes.
        took: seconds that stages took until now, but for what was killed; those that are `done` are
            complete.
    """

    asked: Asked
    images: Whole = 0
    step: Mapping[str, Seconds] = field(default_factory=dict)
    given: Mapping[str, Seconds] = field(default_factory=dict)
    steps: Mapping[str, Whole] = field(default_factory=dict)
    laps: Mapping[str, Whole] = field(default_factory=dict)
    took: Mapping[str, Seconds] = field(default_factory=dict)
    done: tuple[str, ...] = ()
    overwrite: bool = False

    @property
    def left(self) -> float | None:
        """Seconds of the budget, as far as is known: a stage under way counts as what it was
        given."""
        under_way = {name: one for name, one in self.given.items() if name not in self.done}
        budget = self.asked.budget
        return None if budget is None else budget - sum({**self.took, **under_way}.values())

    def begun(self, name: str, recipes: Recipes, made: int = 0) -> "Progress":
        """With a stage that begins, or has made some steps and gets another time: its time, of
        what is left, and its steps."""
        left, before = self.left, self.took.get(name, 0.0)
        if left is None:
            seconds = seconds_of(recipes[name].training.steps, self.step.get(name, 0.0))
            return replace(self, given={**self.given, name: seconds})
        if name not in self.step:
            raise ValueError(
                f"the {name} is too large to be tried out, so that no budget can be held; leave "
                "--budget out for the recipe's own steps"
            )
        later = [other for other in recipes if other not in self.done]
        time = max(seconds_for(name, later, left), 0.0)
        count = made + int(time / seconds_of(1, self.step[name]))
        steps = max(within(name, count, recipes[name], self.images), made)
        given = {**self.given, name: before + time}
        return replace(self, given=given, steps={**self.steps, name: steps})

    def within(self, budget: float) -> "Progress":
        """With another budget, and nothing given to what is under way."""
        given = {name: one for name, one in self.given.items() if name in self.done}
        return replace(self, asked=replace(self.asked, budget=budget), given=given)

    def interrupted(self, name: str, took: float) -> "Progress":
        """With the seconds of a lap that was stopped."""
        return replace(self, took={**self.took, name: self.took.get(name, 0.0) + took})

    def lapped(
        self, name: str, recipe: Recipe[Any], made: int, until: int, took: float
    ) -> "Progress":
        """With a lap of a stage, `made` steps up to `until`, and the steps that are left decided by
        it."""
        spent = self.interrupted(name, took)
        after = replace(spent, laps={**self.laps, name: self.laps.get(name, 0) + 1})
        if not made or until >= self.steps.get(name, 0):
            return after
        step = took / made
        count = until + int(max(self.given[name] - after.took[name], 0.0) / step)
        steps = max(within(name, count, recipe, self.images), until)
        return replace(after, step={**self.step, name: step}, steps={**self.steps, name: steps})
