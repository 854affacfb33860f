"""The latents of an image, and how well they lead back to it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unclip.interfaces.server.desk import Desk
from unclip.interfaces.web.jobs import Download, Work
from unclip.interfaces.web.same import Raw, call, line_of, opening, words_of
from unclip.interfaces.web.tabs.form import (
    Given,
    Tab,
    inversion,
    picture_field,
    sees_images,
    steps_field,
)
from unclip.outputs.latents import Latents
from unclip.pipeline.requests import convert
from unclip.pipeline.settings import Settings
from unclip.pipeline.together import Planned, Wanted, Watch
from unclip.pixels import psnr, to_signed

_MOST = 108.0  # dB that images which agree count as


def form(desk: Desk) -> dict[str, Any]:
    """Its fields."""
    return {"image": picture_field("Image"), "steps": steps_field()}


def work(given: Given) -> Work:
    """What the form asks for."""
    desk, picture, steps = given.desk, given.picture("image"), given.count_of_steps()
    sees_images(desk)
    file = f"{picture.stem}.safetensors"
    settings = Settings(size=desk.pipe.decoder.size).for_reconstruction(steps)

    def find(watch: Watch) -> Latents:
        return inversion(given, picture, steps, watch)

    def items(found: Latents) -> list[Planned]:
        [z_i], [x_t] = found.z_i, found.x_T
        return [Planned(desk.pipe, Wanted(settings, 0, z_i=z_i, start=x_t))]

    def saved(found: Latents, images: Sequence[Image.Image]) -> list[Download]:
        return [Download(file, _file_of(found), "application/octet-stream")]

    words = words_of(desk, "invert", [picture.name], {"steps": steps, "output": file}, None,
                     Settings())  # fmt: skip
    back = words_of(desk, "vary", [file], {}, 0, Settings(size=desk.pipe.decoder.size))
    made = call("pipe.invert", Raw("image"), steps, seed=None, settings=Settings())
    size = call("pipe.reconstruct", Raw("latents"), seed=None,
                settings=Settings(size=desk.pipe.decoder.size))  # fmt: skip
    [square] = convert(desk.pipe.squares(picture.image), "pil")
    return Work(
        labels=["its reconstruction"],
        alts=[f"{picture.name} as its latents lead back to it"],
        items=items,
        steps=2 * steps,
        command="\n".join(line_of({"command": one}) for one in (words, back)),
        python=f"{opening(desk, pillow=True)}\nimage = Image.open({picture.name!r})\n"
        f"latents = {made}\nlatents.save({file!r})\nmade = {size}\n"
        f'made.images[0].save("0.png")\n',
        infos=[{"command": back, "seed": 0, **given.notes(settings)}],
        names=[f"{picture.stem}-reconstruction"],
        find=find,
        shown=[("the image, as the decoder sees it", square)],
        downloads=saved,
        facts=lambda images: [f"It has a PSNR of {_psnr(square, images[0]):.1f} dB."],
    )


def _psnr(one: Image.Image, other: Image.Image) -> float:
    """Of two images' bytes, in dB."""
    first, second = (to_signed(torch.from_numpy(np.array(image))[None]) for image in (one, other))
    return min(psnr(first, second).item(), _MOST)


def _file_of(latents: Latents) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "latents.safetensors"
        latents.save(file)
        return file.read_bytes()


def told(options: Any) -> dict[str, Any]:
    """The form of a command's options."""
    return {"steps": options.steps}


INVERT = Tab(
    "invert", "Invert", "The latents (z_i, x_T) of an image, and what they lead back to.", "Invert",
    (), form, work, told, images=("image",),
)  # fmt: skip
