"""An image made larger."""

from collections.abc import Mapping
from typing import Any

import gradio as gr
from PIL import Image

from unclip.interfaces.server.desk import Desk
from unclip.interfaces.web.jobs import Called, Work
from unclip.interfaces.web.same import Raw, call, line_of, opening, words_of
from unclip.interfaces.web.tabs.form import Given, Tab, picture_field
from unclip.pipeline.settings import UPSAMPLING
from unclip.pipeline.together import Watch


def form(desk: Desk) -> dict[str, Any]:
    """Its fields."""
    longer = gr.Textbox(
        label="Pixels of the longer side", placeholder="one pass of the nearest upsampler",
        max_lines=1,
    )  # fmt: skip
    return {"image": picture_field("Image"), "longer": longer}


def work(given: Given) -> Work:
    """What the form asks for."""
    desk, picture = given.desk, given.picture("image")
    pipe, longer = desk.pipe, given.text("longer").strip()
    if longer and not longer.isdecimal():
        raise ValueError("the pixels of the longer side are a whole number")
    settings = given.settings.with_values({"size": int(longer) if longer else None})
    steps = pipe.upscaling_steps(picture.image, settings)

    def enlarged(watch: Watch) -> Image.Image:
        def step(_: Any, at: int, t: float, state: Mapping[str, Any]) -> None:
            watch(state["stage"], at, state["x0"])

        made = pipe.upscale(
            picture.image, seed=given.seed, settings=settings, callback_on_step_end=step
        )
        image: Image.Image = made.images[0]
        return image

    words = words_of(desk, "upscale", [picture.name], {}, given.seed, settings)
    made = call("pipe.upscale", Raw("image"), seed=given.seed, settings=settings)
    return Work(
        labels=["enlarged"],
        alts=[f"{picture.name}, enlarged"],
        items=lambda _: [Called(enlarged, steps)],
        steps=steps,
        command=line_of({"command": words}),
        python=f"{opening(desk, pillow=True)}\nimage = Image.open({picture.name!r})\n"
        f'made = {made}\nmade.images[0].save("0.png")\n',
        infos=[{"command": words, "seed": given.seed, **given.notes(settings)}],
        names=[f"{picture.stem}-larger"],
        shown=[(f"{picture.image.width} × {picture.image.height} pixels", picture.image)],
    )


def told(options: Any) -> dict[str, Any]:
    """The form of a command's options."""
    return {"longer": "" if options.size is None else str(options.size)}


UPSCALE = Tab(
    "upscale", "Upscale", "An image of any size, made larger by the model's upsamplers.", "Upscale",
    UPSAMPLING, form, work, told, images=("image",),
)  # fmt: skip
