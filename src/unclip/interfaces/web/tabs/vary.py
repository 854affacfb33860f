"""Variations of an image (section 3.1)."""

from typing import Any

from unclip.checks import seed_after
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.web.jobs import Work
from unclip.interfaces.web.same import SAVED, Raw, call, line_of, opening, words_of
from unclip.interfaces.web.tabs.form import (
    Given,
    Tab,
    count_field,
    picture_field,
    sees_images,
)
from unclip.pipeline.settings import DECODING
from unclip.pipeline.together import Planned, Wanted


def form(desk: Desk) -> dict[str, Any]:
    """Its fields."""
    return {"image": picture_field("Image"), "n": count_field("Variations")}


def work(given: Given) -> Work:
    """What the form asks for."""
    desk, picture, count = given.desk, given.picture("image"), given.count()
    sees_images(desk)
    seeds = [seed_after(given.seed, number) for number in range(count)]
    rows = [Planned(desk.pipe, Wanted(given.settings, seed, image=picture.image)) for seed in seeds]

    def words(count: int, seed: int) -> list[str]:
        return words_of(desk, "vary", [picture.name], {"n": count}, seed, given.settings)

    python = call("pipe.vary", Raw("image"), count, seed=given.seed, settings=given.settings)
    opened = f"image = Image.open({picture.name!r})"
    return Work(
        labels=[f"seed {seed}" for seed in seeds],
        alts=[f"variation of {picture.name}, seed {seed}" for seed in seeds],
        items=lambda _: rows,
        steps=sum(row.steps for row in rows),
        command=line_of({"command": words(count, given.seed)}),
        python=f"{opening(desk, pillow=True)}\n{opened}\nmade = {python}\n{SAVED}\n",
        infos=[{"command": words(1, seed), "seed": seed, **given.notes()} for seed in seeds],
        names=[f"{picture.stem}-vary-{seed}" for seed in seeds],
        shown=[("the image", picture.image)],
    )


def told(options: Any) -> dict[str, Any]:
    """The form of a command's options."""
    return {"n": options.n}


VARY = Tab(
    "vary", "Vary", "What CLIP sees in an image stays; the rest is drawn anew.", "Vary",
    DECODING, form, work, told, images=("image",),
)  # fmt: skip
