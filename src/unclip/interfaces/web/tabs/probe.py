"""What each principal component of the embeddings adds to an image (section 4)."""

from typing import Any

import gradio as gr
import torch
from torch import Tensor

from unclip.interfaces.cli.commands.embed import embeddings_of
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.fields import MOST_IMAGES
from unclip.interfaces.web.jobs import Work
from unclip.interfaces.web.same import SAVED, Raw, call, opening
from unclip.interfaces.web.tabs.form import Given, Tab, picture_field
from unclip.interfaces.web.tabs.moved import moved
from unclip.networks.pca import Components, Moments
from unclip.pipeline.latent_space import Points
from unclip.pipeline.manipulations import probed
from unclip.pipeline.settings import DECODING

DATA, SAMPLES = "emoji:shapes", 512
"""Whose components they are, and of how many images."""


def form(desk: Desk) -> dict[str, Any]:
    """Its fields."""
    counts = " ".join(map(str, probed(desk.pipe.clip.width)))
    return {
        "image": picture_field("Image"),
        "components": gr.Textbox(
            counts, label="Numbers of components", max_lines=2,
            info=f"Each makes an image; components are of {SAMPLES} scenes of the built-in world.",
        ),
    }  # fmt: skip


def work(given: Given) -> Work:
    """What the form asks for."""
    picture, width = given.picture("image"), given.desk.pipe.clip.width
    counts = _counts(given.text("components"), width)

    def basis() -> Components:
        return Components.of(Moments.of(embeddings_of(given.desk.pipe, DATA, SAMPLES)))

    def rebuilt(z_i: Tensor, x_t: Tensor | None) -> Points:
        found = given.memory.found(("components", DATA, SAMPLES), basis)
        return Points(torch.cat([found.rebuilt(z_i, count) for count in counts]))

    made = call(
        "pipe.probe", Raw("image"), Raw("z_all"), counts, seed=given.seed, settings=given.settings
    )
    python = (
        f"{opening(given.desk, pillow=True)}\n\n"
        "from unclip.interfaces.cli.commands.embed import embeddings_of\n\n"
        f"image = Image.open({picture.name!r})\n"
        f"z_all = embeddings_of(pipe, {DATA!r}, {SAMPLES})\nmade = {made}\n{SAVED}\n"
    )
    flags = {"components": tuple(counts), "data": DATA, "samples": SAMPLES}
    return moved(
        given, "probe", [picture], flags, rebuilt, [f"{count} components" for count in counts],
        python, shown=[("the image", picture.image)],
    )  # fmt: skip


def _counts(text: str, width: int) -> list[int]:
    words = text.replace(",", " ").split() or [*map(str, probed(width))]
    if not all(word.isdecimal() and int(word) <= width for word in words):
        raise ValueError(f"give numbers of components from 0 to {width}, such as 20 40 {width}")
    if len(words) > MOST_IMAGES:
        raise ValueError(f"give {MOST_IMAGES} numbers of components at most")
    return [int(word) for word in words]


def told(options: Any) -> dict[str, Any]:
    """The form of a command's options."""
    return {"components": " ".join(map(str, options.components or ()))}


PROBE = Tab(
    "probe", "Probe", "An image's embedding, rebuilt of more and more principal components.",
    "Probe", DECODING, form, work, told, images=("image",), submit=("components",),
)  # fmt: skip
