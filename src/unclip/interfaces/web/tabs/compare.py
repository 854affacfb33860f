"""The same captions and seeds by two models, or by one in two ways."""

from typing import Any

import gradio as gr
from PIL import Image

from unclip.checks import seed_after
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.web.jobs import Called, Work
from unclip.interfaces.web.same import call, line_of, opening_of
from unclip.interfaces.web.tabs.form import Given, Tab, prompt_field
from unclip.interfaces.web.tabs.generate import slug
from unclip.pipeline.inputs import check_prompts
from unclip.pipeline.settings import PRESETS, STAGES
from unclip.pipeline.together import Planned, Wanted, Watch, draw_together

_MOST = 5  # images a side


def form(desk: Desk) -> dict[str, Any]:
    """Its fields."""
    names = [desk.name, *desk.others]
    priors = [("its own", ""), *((kind, kind) for kind in desk.pipe.priors)]
    fields: dict[str, Any] = {"prompt": prompt_field()}
    fields["n"] = gr.Slider(1, _MOST, 2, step=1, label="Images a side")
    with gr.Row():
        for side, other in (("left", 0), ("right", 1)):
            with gr.Column(min_width=140):
                last = names[min(other, len(names) - 1)]
                steps = "fast" if other and len(names) == 1 else "default"
                fields[f"{side}_model"] = gr.Dropdown(names, value=last, label=f"Model, {side}")
                fields[f"{side}_steps"] = gr.Dropdown(
                    [*PRESETS], value=steps, label=f"Quality, {side}"
                )
                fields[f"{side}_prior"] = gr.Dropdown(priors, value="", label=f"Prior, {side}")
    return fields


def work(given: Given) -> Work:
    """What the form asks for."""
    desk, prompt, count = given.desk, given.text("prompt"), given.count()
    if not prompt.strip():
        raise ValueError("say what the images should show")
    check_prompts(prompt)
    sides = [_Side(given, name) for name in ("left", "right")]
    if sides[0].same_as(sides[1]):
        raise ValueError("left and right are the same: choose another model, quality or prior")
    seeds = [seed_after(given.seed, number) for number in range(min(count, _MOST))]

    def items(found: Any) -> list[Planned | Called]:
        return [side.item(seed, prompt) for side in sides for seed in seeds]

    steps = sum(side.steps for side in sides) * len(seeds)
    labels = [f"{side.label}, seed {seed}" for side in sides for seed in seeds]
    lines, programs = zip(*(side.same(prompt, len(seeds)) for side in sides), strict=True)
    return Work(
        labels=labels,
        alts=[f"{prompt}, by {label}" for label in labels],
        items=items,
        steps=steps,
        command="\n".join(lines),
        python="\n".join(programs),
        infos=[side.info(prompt, seed) for side in sides for seed in seeds],
        names=[f"{slug(prompt)}-{slug(label)}" for label in labels],
        columns=len(seeds),
        notices=desk.notices(prompt),
    )


class _Side:
    """One of the two: a model, and how it is sampled."""

    def __init__(self, given: Given, name: str) -> None:
        self.given, self.desk, self.name = given, given.desk, name
        self.model = given.text(f"{name}_model") or self.desk.name
        own = self.model == self.desk.name
        if not own and self.model not in self.desk.others:
            raise ValueError("that model is not one of those that are served")
        said = {"steps": given.text(f"{name}_steps") or "default"}
        said |= {"prior": given.text(f"{name}_prior")} if given.text(f"{name}_prior") else {}
        self.settings = given.settings.with_values(said)
        self.other = None if own else self.desk.others[self.model]
        self.place = self.desk.model if self.other is None else self.other.model
        if own:
            self.steps = Planned(self.desk.pipe, self._wanted(given.seed, "")).steps
        else:
            self.settings = self.settings.with_values({"size": None})  # it has sizes of its own
            self.steps = 60

    def same_as(self, other: "_Side") -> bool:
        return (self.model, self.settings) == (other.model, other.settings)

    @property
    def label(self) -> str:
        said = [self.model, self.settings.steps, *([self.settings.prior] if self.settings.prior
                                                   else [])]  # fmt: skip
        return " · ".join(said)

    def _wanted(self, seed: int, prompt: str) -> Wanted:
        return Wanted(self.settings, seed, prompt)

    def item(self, seed: int, prompt: str) -> Planned | Called:
        """An image: of the model that is served with others' images, else alone."""
        other = self.other
        if other is None:
            return Planned(self.desk.pipe, self._wanted(seed, prompt))

        def made(watch: Watch) -> Image.Image:
            row = Planned(other.pipe, self._wanted(seed, prompt))
            [image] = draw_together(other.pipe, [row], watch)
            return image

        return Called(made, self.steps)

    def info(self, prompt: str, seed: int) -> dict[str, Any]:
        notes = self.given.notes(self.settings)
        return {"prompt": prompt, "seed": seed, **notes, "model": self.place}

    def same(self, prompt: str, count: int) -> tuple[str, str]:
        """The command, and the program."""
        more = {"n": count} if count > 1 else {}
        line = line_of({**self.info(prompt, self.given.seed), **more})
        made = call("pipe", prompt, count, seed=self.given.seed, settings=self.settings)
        program = (
            f"{opening_of(self.place, self.desk)}\nmade = {made}\n"
            "for number, image in enumerate(made.images):\n"
            f'    image.save(f"{self.name}-{{number}}.png")\n'
        )
        return line, program


def told(options: Any) -> dict[str, Any]:
    """The form of a command's options."""
    return {}


COMPARE = Tab(
    "compare", "Compare", "The same caption and seeds by two models, or by one in two ways.",
    "Compare", STAGES, form, work, told, submit=("prompt",),
)  # fmt: skip
