"""An image moved towards a text (section 3.3)."""

from typing import Any

import gradio as gr
from torch import Tensor

from unclip.interfaces.server.desk import Desk
from unclip.interfaces.web.jobs import Work
from unclip.interfaces.web.same import SAVED, Raw, call, opening
from unclip.interfaces.web.tabs.form import (
    Given,
    Tab,
    frames_field,
    picture_field,
    prompt_field,
    steps_field,
)
from unclip.interfaces.web.tabs.moved import moved
from unclip.pipeline.inputs import check_prompts
from unclip.pipeline.latent_space import Points, check_thetas, text_edited
from unclip.pipeline.settings import DECODING


def form(desk: Desk) -> dict[str, Any]:
    """Its fields."""
    return {
        "image": picture_field("Image"),
        "from": prompt_field("What it is now", "a red star on a green background"),
        "to": prompt_field("What it should become", "a red star at night"),
        "theta": gr.Slider(0, 1, 0.4, step=0.05, label="θ, how far at most",
                           info="Let go of it, and the strip is drawn anew."),
        "frames": frames_field(5, 1),
        "invert": gr.Checkbox(True, label="Keep what is not meant",
                              info="Begins with the image's own noise, found by inversion."),
        "steps": steps_field(),
    }  # fmt: skip


def work(given: Given) -> Work:
    """What the form asks for."""
    picture, frames = given.picture("image"), given.count("frames")
    to, source = given.text("to"), given.text("from")
    if not to.strip() or to == source:
        raise ValueError("say what the image should become, and that it is not yet")
    check_prompts([to, source], empty=True)
    [theta] = check_thetas(_number(given.values.get("theta")))
    thetas = [theta * k / (frames - 1) for k in range(frames)] if frames > 1 else [theta]
    inverts, steps = bool(given.values.get("invert")), given.count_of_steps()

    def turned(z_i: Tensor, x_t: Tensor | None) -> Points:
        return text_edited(z_i, x_t, given.desk.pipe.text_direction(to, source), thetas)

    flags = {
        "from": source, "to": to, "theta": theta, "frames": frames,
        "invert" if inverts else "no-invert": True, "invert-steps": steps if inverts else None,
    }  # fmt: skip
    latents = Raw(f"pipe.invert(image, {steps})") if inverts else Raw("image")
    made = call("pipe.edit", latents, to, source, thetas, seed=given.seed, settings=given.settings)
    opened = f"image = Image.open({picture.name!r})"
    return moved(
        given, "edit", [picture], flags, turned, [f"θ = {one:.2f}" for one in thetas],
        f"{opening(given.desk, pillow=True)}\n{opened}\nmade = {made}\n{SAVED}\n",
        inverts=inverts, edits=True, steps=steps, shown=[("the image", picture.image)],
        notices=given.desk.notices(to, source),
    )  # fmt: skip


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        raise ValueError("θ is a number from 0 to 1")
    return float(value)


def told(options: Any) -> dict[str, Any]:
    """The form of a command's options."""
    return {
        "from": options.from_, "to": options.to, "theta": options.theta,
        "frames": options.frames, "invert": options.invert, "steps": options.invert_steps,
    }  # fmt: skip


EDIT = Tab(
    "edit", "Edit", "An image moves towards a text, by the angle θ.", "Edit",
    DECODING, form, work, told, images=("image",), live=("theta",), submit=("to", "from"),
)  # fmt: skip
