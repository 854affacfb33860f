"""What a tab is, what its form gives, and the fields that several of them have."""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from unclip.checks import whole_number
from unclip.data.transforms import open_image
from unclip.files import read_bytes
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.fields import MOST_IMAGES
from unclip.interfaces.web.jobs import Work
from unclip.outputs.latents import Latents
from unclip.pipeline.settings import Settings
from unclip.pipeline.together import Watch


class Memory:
    """What is expensive to find, and may be needed again: the last few of a kind."""

    def __init__(self, most: int = 8) -> None:
        self.most, self._known = most, OrderedDict[Hashable, Any]()

    def found(self, key: Hashable, find: Callable[[], Any]) -> Any:
        """What `find` gave for this key, which is asked if nobody did."""
        if key not in self._known:
            self._known[key] = find()
        self._known.move_to_end(key)
        while len(self._known) > self.most:
            self._known.popitem(last=False)
        return self._known[key]

    def holds(self, key: Hashable) -> bool:
        return key in self._known


@dataclass(frozen=True)
class Given:
    """What a person gave.

    Args:
        values: by the fields' names; files as paths.
        settings: knobs of sampling, those of the tab's stages.
        seed: of the first image.
        request: its id, for the notes.
    """

    desk: Desk
    values: Mapping[str, Any]
    settings: Settings
    seed: int
    request: str
    memory: Memory

    def count(self, name: str = "n", least: int = 1) -> int:
        """A number of images."""
        value = self.values.get(name)
        if not isinstance(value, int | float) or value != value or int(value) != value:
            raise ValueError(f"give a whole number of images, {least} to {MOST_IMAGES}")
        if not least <= value <= MOST_IMAGES:
            raise ValueError(f"{int(value)} images were asked for; {least} to {MOST_IMAGES} can be")
        return int(value)

    def count_of_steps(self) -> int:
        """Of an inversion."""
        value = self.values.get("steps")
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        return whole_number(value, "steps of the inversion", 1, 1000)

    def text(self, name: str) -> str:
        value = self.values.get(name)
        return value if isinstance(value, str) else ""

    def picture(self, name: str, what: str = "an image") -> "Picture":
        """An image of the form, opened as everywhere.

        Raises:
            ValueError: there is none, or it is no image.
        """
        given = self.values.get(name)
        if not given:
            raise ValueError(f"give {what} first")
        return picture_of(given, self.desk)

    def notes(self, settings: Settings | None = None) -> dict[str, Any]:
        """What the notes of all images say."""
        notes = self.desk.notes(settings or self.settings, self.request)
        if not self.desk.provenance.watermark:
            notes["settings"] |= {"watermark": False}
        return notes


@dataclass(frozen=True)
class Picture:
    """An image that was given, and what its file is called."""

    image: Image.Image
    name: str
    digest: str

    @property
    def stem(self) -> str:
        return Path(self.name).stem


def picture_of(given: Any, desk: Desk) -> Picture:
    """An image at a path of the page's own, or its bytes."""
    path = None if isinstance(given, bytes) else Path(str(given))
    data = given if path is None else read_bytes(path, desk.limits.body)
    name = "image.png" if path is None else file_name(path.name)
    image = open_image(data, max_pixels=desk.limits.pixels, name=name)
    return Picture(image, name, hashlib.sha256(data).hexdigest())


def file_name(name: str) -> str:
    """A name that is safe to show, and no flag."""
    return re.sub(r"[^\w.\- ]+|^-+", "_", name)[-80:] or "image.png"


def apart(first: Picture, second: Picture) -> Picture:
    """The second image, under a name that tells it from the first."""
    if first.name != second.name or first.digest == second.digest:
        return second
    return replace(second, name=f"{second.stem}-2{Path(second.name).suffix}")


@dataclass(frozen=True)
class Tab:
    """A tab of the page.

    Args:
        title: of the tab; `what` it is for, in a sentence; `button` starts it.
        stages: whose knobs of sampling count.
        form: makes the fields, by name.
        work: what the form asks for; ValueError for what makes no sense.
        told: of a command's options, or of the notes of `generate`, the form's values.
        images: fields that an image can be sent to.
        live: fields that make the work begin anew when they are changed.
    """

    name: str
    title: str
    what: str
    button: str
    stages: tuple[str, ...]
    form: Callable[[Desk], dict[str, Any]]
    work: Callable[[Given], Work]
    told: Callable[[Any], dict[str, Any]]
    images: Sequence[str] = ()
    live: Sequence[str] = ()
    submit: Sequence[str] = field(default=())
    """Fields in which Enter starts it."""


def inversion(given: Given, picture: Picture, steps: int, watch: Watch) -> Latents:
    """The latents of a picture, found once."""

    def step(_: Any, at: int, t: float, state: Mapping[str, Any]) -> None:
        watch(state["stage"], at, state["x0"])

    def find() -> Latents:
        return given.desk.pipe.invert(picture.image, steps, callback_on_step_end=step)

    found: Latents = given.memory.found(("latents", picture.digest, steps), find)
    return found


def sees_images(desk: Desk) -> None:
    """Refuse what a model without an image encoder cannot do."""
    if desk.pipe.clip.processor is None:
        raise ValueError("this model has no image_encoder: it takes captions, not images")


# ---- fields --------------------------------------------------------------------------------------


def prompt_field(label: str = "Caption", placeholder: str = "a red star and a white ring") -> Any:
    """A text; Enter begins."""
    return gr.Textbox(label=label, placeholder=placeholder, lines=1, max_lines=6, max_length=10_000)


def count_field(label: str = "Images", value: int = 4) -> Any:
    """How many images."""
    return gr.Slider(1, MOST_IMAGES, value, step=1, label=label)


def frames_field(value: int, least: int = 2) -> Any:
    """How many images between others."""
    return gr.Slider(least, MOST_IMAGES, value, step=1, label="Frames")


def steps_field() -> Any:
    """Of an inversion."""
    return gr.Slider(5, 250, 100, step=5, label="Steps of the inversion",
                     info="More lead back more exactly, and take longer.")  # fmt: skip


def picture_field(label: str, name: str | None = None) -> Any:
    """An image by a click, a drop, or from the clipboard.

    Args:
        name: its id on the page.
    """
    return gr.Image(
        label=label, type="filepath", sources=["upload", "clipboard"], height=220,
        image_mode=None, buttons=[], elem_id=name,
    )  # fmt: skip
