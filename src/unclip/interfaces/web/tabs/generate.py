"""Images for a caption."""

import re
from typing import Any

from unclip.checks import seed_after
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.web.jobs import Work
from unclip.interfaces.web.same import SAVED, call, line_of, opening
from unclip.interfaces.web.tabs.form import Given, Tab, count_field, prompt_field
from unclip.pipeline.inputs import check_prompts
from unclip.pipeline.settings import STAGES
from unclip.pipeline.together import Planned, Wanted


def form(desk: Desk) -> dict[str, Any]:
    """Its fields."""
    return {"prompt": prompt_field(), "n": count_field()}


def work(given: Given) -> Work:
    """What the form asks for."""
    prompt, count, desk = given.text("prompt"), given.count(), given.desk
    if not prompt.strip():
        raise ValueError("say what the images should show")
    check_prompts(prompt)
    seeds = [seed_after(given.seed, number) for number in range(count)]
    rows = [Planned(desk.pipe, Wanted(given.settings, seed, prompt)) for seed in seeds]
    info, notes = {"prompt": prompt, "seed": given.seed}, given.notes()
    more = {"n": count} if count > 1 else {}
    python = call("pipe", prompt, count, seed=given.seed, settings=given.settings)
    return Work(
        labels=[f"seed {seed}" for seed in seeds],
        alts=[f"{prompt}, seed {seed}" for seed in seeds],
        items=lambda _: rows,
        steps=sum(row.steps for row in rows),
        command=line_of({**info, **more, **notes}),
        python=f"{opening(desk)}\nmade = {python}\n{SAVED}\n",
        infos=[{"prompt": prompt, "seed": seed, **notes} for seed in seeds],
        names=[f"{slug(prompt)}-{seed}" for seed in seeds],
        notices=desk.notices(prompt),
    )


def slug(text: str) -> str:
    """A file name that still says what an image shows."""
    return re.sub(r"[\W_]+", "-", text.lower(), flags=re.ASCII).strip("-")[:60] or "image"


def told(notes: Any) -> dict[str, Any]:
    """Of the notes of `unclip generate`."""
    prompt = notes.get("prompt")
    prompt = prompt[0] if isinstance(prompt, list) and prompt else prompt
    if not isinstance(prompt, str):
        raise ValueError("the image's notes hold no caption")
    count = notes.get("n", 1)
    return {"prompt": prompt, "n": min(10, count) if isinstance(count, int) else 1}


GENERATE = Tab(
    "generate", "Generate", "A caption becomes a sheet of images, a seed each.", "Generate",
    STAGES, form, work, told, submit=("prompt",),
)  # fmt: skip
