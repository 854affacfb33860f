"""Images between two (section 3.2)."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from torch import Tensor

from unclip.interfaces.server.desk import Desk
from unclip.interfaces.web.jobs import Download, Work
from unclip.interfaces.web.same import SAVED, Raw, call, opening
from unclip.interfaces.web.tabs.form import (
    Given,
    Tab,
    apart,
    frames_field,
    picture_field,
    steps_field,
)
from unclip.interfaces.web.tabs.moved import moved
from unclip.outputs.animation import save_animation
from unclip.pipeline.latent_space import Points, check_frames, path
from unclip.pipeline.settings import DECODING


def form(desk: Desk) -> dict[str, Any]:
    """Its fields."""
    with gr.Row():
        first, second = picture_field("First image"), picture_field("Second image")
    return {
        "first": first, "second": second, "frames": frames_field(7),
        "invert": gr.Checkbox(False, label="Begin and end with the images themselves",
                              info="Inverts both first, which takes longer."),
        "steps": steps_field(),
    }  # fmt: skip


def work(given: Given) -> Work:
    """What the form asks for."""
    first = given.picture("first", "two images")
    pictures = [first, apart(first, given.picture("second", "a second image"))]
    frames = given.count("frames", 2)
    check_frames(frames, 2)
    inverts, steps = bool(given.values.get("invert")), given.count_of_steps()

    def between(z_i: Tensor, x_t: Tensor | None) -> Points:
        return Points(path(z_i, frames), None if x_t is None else path(x_t, frames))

    flags = {"frames": frames, "invert": inverts, "invert-steps": steps if inverts else None}
    opened = ", ".join(f"Image.open({one.name!r})" for one in pictures)
    source = Raw("pipe.invert(images, " + str(steps) + ")") if inverts else Raw("images")
    made = call("pipe.blend", source, frames, seed=given.seed, settings=given.settings)
    python = f"{opening(given.desk, pillow=True)}\nimages = [{opened}]\nmade = {made}\n{SAVED}\n"
    names = " and ".join(one.name for one in pictures)

    def animated(found: Any, images: Sequence[Image.Image]) -> list[Download]:
        return [Download("blend.gif", _gif(given, images), "image/gif",
                         f"all frames between {names}, one after the other")]  # fmt: skip

    return moved(
        given, "blend", pictures, flags, between,
        [f"θ = {number / (frames - 1):.2f}" for number in range(frames)], python,
        inverts=inverts, steps=steps, frames=True, downloads=animated,
    )  # fmt: skip


def _gif(given: Given, images: Sequence[Image.Image]) -> bytes:
    """There and back again, so that it does not jump."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "blend.gif"
        frames = [*images, *images[-2:0:-1]]
        save_animation(frames, file, {}, provenance=given.desk.provenance)
        return file.read_bytes()


def told(options: Any) -> dict[str, Any]:
    """The form of a command's options."""
    return {"frames": options.frames, "invert": options.invert, "steps": options.invert_steps}


BLEND = Tab(
    "blend", "Blend", "The images between two: a slider and a GIF.", "Blend",
    DECODING, form, work, told, images=("first", "second"),
)  # fmt: skip
