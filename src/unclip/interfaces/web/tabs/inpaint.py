"""A part of an image repainted for a caption."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import gradio as gr
from PIL import Image, ImageChops

from unclip.interfaces.cli.commands.inpaint import box_of
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.web.brush import IMAGE, brush_field, mask_of, strokes_of
from unclip.interfaces.web.jobs import Download, Work
from unclip.interfaces.web.same import SAVED, Raw, call, opening
from unclip.interfaces.web.tabs.form import (
    Given,
    Picture,
    Tab,
    apart,
    count_field,
    picture_field,
    prompt_field,
)
from unclip.interfaces.web.tabs.seeded import seeded
from unclip.pipeline.inpainting import Box, plan_hole
from unclip.pipeline.inputs import check_prompts
from unclip.pipeline.settings import INPAINTING, STAGES
from unclip.pipeline.together import Wanted

MASK = "mask.png"


def form(desk: Desk) -> dict[str, Any]:
    """Its fields."""
    image, strokes = picture_field("Image", IMAGE), brush_field()
    prompt, count = prompt_field("What the image shows then"), count_field()
    with gr.Accordion("Boxes, or a mask from a file", open=False):
        boxes = gr.Textbox(
            label="Boxes", placeholder="x0,y0,x1,y1", max_lines=1, max_length=2000,
            info="In pixels from the upper left corner; several with a space between.",
        )  # fmt: skip
        mask = picture_field("Mask: what is white or transparent is repainted")
    return {
        "image": image, "strokes": strokes, "prompt": prompt, "n": count, "boxes": boxes,
        "mask": mask,
    }  # fmt: skip


def work(given: Given) -> Work:
    """What the form asks for."""
    desk, picture = given.desk, given.picture("image")
    prompt = given.text("prompt")
    check_prompts(prompt, empty=True)
    boxes = [box_of(words) for words in given.text("boxes").split()]
    name, mask, made = _mask(given, picture)
    if mask is None and not boxes:
        raise ValueError("brush over what is to be repainted, or give boxes or a mask")
    hole = plan_hole(picture.image, mask, boxes, given.settings.size or desk.pipe.sizes[-1])
    files = [picture.name, *([] if mask is None else [name]), prompt]
    return seeded(
        given, "inpaint", picture, files, {"box": [",".join(map(str, box)) for box in boxes]},
        lambda seed: Wanted(given.settings, seed, prompt, hole=hole),
        f"{picture.name} repainted: {prompt}",
        _program(given, picture, None if mask is None else name, boxes, given.count()),
        kept=picture.image,
        downloads=lambda *_: [_download(name, mask)] if made and mask is not None else [],
        notices=desk.notices(prompt),
    )  # fmt: skip


def _mask(given: Given, picture: Picture) -> tuple[str, Image.Image | None, bool]:
    """What is brushed, and the mask's file, as one: its name, itself, and whether it is new.

    A file of another size than the image's is given back alone, to be refused.
    """
    strokes = strokes_of(given.text("strokes"))
    file = apart(picture, given.picture("mask")) if given.values.get("mask") else None
    if not strokes:
        return (MASK, None, False) if file is None else (file.name, file.image, False)
    drawn = mask_of(strokes, picture.image.size)
    if file is not None:
        if file.image.size != drawn.size:
            return file.name, file.image, False
        drawn = ImageChops.lighter(drawn, file.image.convert("L"))
    return (MASK if picture.name != MASK else f"brushed-{MASK}"), drawn, True


def _program(
    given: Given, picture: Picture, mask: str | None, boxes: Sequence[Box], count: int
) -> str:
    opened = [f"image = Image.open({picture.name!r})"]
    opened += [] if mask is None else [f"mask = Image.open({mask!r})"]
    arguments = [Raw("image"), given.text("prompt"), Raw("None" if mask is None else "mask"), count]
    arguments += [Raw(f"boxes={list(boxes)}")] if boxes else []
    made = call("pipe.inpaint", *arguments, seed=given.seed, settings=given.settings)
    return "\n".join([opening(given.desk, pillow=True), *opened, f"made = {made}", SAVED, ""])


def _download(name: str, mask: Image.Image) -> Download:
    file = BytesIO()
    mask.save(file, "PNG")
    return Download(name, file.getvalue(), "image/png", "the mask: white is repainted")


def told(options: Any) -> dict[str, Any]:
    """The form of a command's options."""
    return {
        "prompt": options.words[-1] if options.words else "", "n": options.n,
        "boxes": " ".join(options.box),
    }  # fmt: skip


INPAINT = Tab(
    "inpaint", "Inpaint", "What you brush over is repainted; all else stays bit for bit.",
    "Inpaint", (*STAGES, INPAINTING), form, work, told, images=("image",), submit=("prompt",),
)  # fmt: skip
