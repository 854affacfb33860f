"""Variations of an image (section 3.1)."""

from typing import Any

from unclip.interfaces.server.desk import Desk
from unclip.interfaces.web.jobs import Work
from unclip.interfaces.web.same import SAVED, Raw, call, opening
from unclip.interfaces.web.tabs.form import (
    Given,
    Tab,
    count_field,
    picture_field,
    sees_images,
)
from unclip.interfaces.web.tabs.seeded import seeded
from unclip.pipeline.settings import DECODING
from unclip.pipeline.together import Wanted


def form(desk: Desk) -> dict[str, Any]:
    """Its fields."""
    return {"image": picture_field("Image"), "n": count_field("Variations")}


def work(given: Given) -> Work:
    """What the form asks for."""
    picture, count = given.picture("image"), given.count()
    sees_images(given.desk)
    made = call("pipe.vary", Raw("image"), count, seed=given.seed, settings=given.settings)
    opened = f"image = Image.open({picture.name!r})"
    return seeded(
        given, "vary", picture, [picture.name], {},
        lambda seed: Wanted(given.settings, seed, image=picture.image),
        f"variation of {picture.name}",
        f"{opening(given.desk, pillow=True)}\n{opened}\nmade = {made}\n{SAVED}\n",
    )  # fmt: skip


def told(options: Any) -> dict[str, Any]:
    """The form of a command's options."""
    return {"n": options.n}


VARY = Tab(
    "vary", "Vary", "What CLIP sees in an image stays; the rest is drawn anew.", "Vary",
    DECODING, form, work, told, images=("image",),
)  # fmt: skip
