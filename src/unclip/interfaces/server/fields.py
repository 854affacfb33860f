"""What requests may say: fields that are knobs, beside the knobs of sampling.

Of every endpoint one dataclass; the schema, the page of documentation and what is refused follow
from it and from `Settings`. A field that is not there is refused by name, never ignored.
"""

import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, TypeVar

from unclip.checks import shown
from unclip.config import Between, Probability, Seed, suggest
from unclip.interfaces.server.refusals import RefusedError
from unclip.pipeline.knobs import Knobs, concerning, hints_of, json_schema, knob, knobs_of
from unclip.pipeline.settings import DECODING, INPAINTING, STAGES, UPSAMPLING, Settings, known

T = TypeVar("T", bound="Asked")
MOST_IMAGES = 10
"""Of a request, as OpenAI has it."""
FORMATS = ("png", "jpeg", "webp")
Images = Annotated[int, Between(1, MOST_IMAGES)]
Thetas = Annotated[tuple[Probability, ...], Between(1, MOST_IMAGES)]
Texts = Annotated[tuple[str, ...], Between(1, 100)]
Component = Annotated[float, Between(-1e6, 1e6)]  # of an embedding
Row = Annotated[tuple[Component, ...], Between(1, 2**16)]
Rows = Annotated[tuple[Row, ...], Between(1, 1000)]
Weights = Annotated[tuple[Annotated[float, Between(0, 1e6)], ...], Between(2, 16)]
Corner = Annotated[int, Between(0, 2**16)]  # pixels
Boxes = Annotated[tuple[Annotated[tuple[Corner, ...], Between(4, 4)], ...], Between(1, 16)]


@dataclass(frozen=True)
class Asked(Knobs):
    """What every request may say."""

    stages: ClassVar[tuple[str, ...]] = ()
    """Whose knobs of sampling it may say."""
    needs: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[Mapping[str, str]] = {}
    """Files of a form, and what they are."""

    model: str | None = knob("Name of the model", left_out="the one that is served")
    user: str | None = knob("Name of the end user, which is written to the log")


@dataclass(frozen=True)
class AskedImages(Asked):
    """What requests for images may say."""

    seed: Seed | None = knob(
        "Seed of the first image; the others count on", left_out="one is drawn, and told"
    )
    response_format: str = knob(
        "Kind of answer: the image itself, or an address at which it lies for an hour",
        default="b64_json", choices=("b64_json", "url"),
    )  # fmt: skip
    output_format: str = knob(
        "File format of the images; only PNG carries notes on how it was made", default="png",
        choices=FORMATS,
    )  # fmt: skip
    output_compression: Annotated[int, Between(0, 100)] | None = knob(
        "Quality of JPEG and WebP, 0 to 100", left_out="100"
    )
    quality: str = knob(
        "Quality, always the same; the knobs of sampling say more",
        default="auto",
        choices=("auto", "standard"),
    )
    background: str = knob(
        "Background; there is no transparency", default="auto", choices=("auto", "opaque")
    )


@dataclass(frozen=True)
class Sized(AskedImages):
    """Requests for several images of one of the model's sizes."""

    n: Images = knob("Number of images", default=1)
    size: str | None = knob(
        'Size as "WIDTHxHEIGHT", one of the model\'s, or "auto"', left_out="the largest"
    )


@dataclass(frozen=True)
class Streamed(Sized):
    """Requests whose images can be watched."""

    stream: bool = knob("Server-sent events instead of one answer", default=False)
    partial_images: Annotated[int, Between(0, 3)] = knob(
        "Number of images on the way, with `stream`: what the decoder expects the image to be",
        default=0,
    )


@dataclass(frozen=True)
class Generation(Streamed):
    """Make images for a caption."""

    stages: ClassVar = STAGES
    needs: ClassVar = ("prompt",)
    prompt: str = knob("Caption of the images", default="")


@dataclass(frozen=True)
class Edit(Streamed):
    """Repaint a part of an image for a caption, and keep the rest bit for bit."""

    stages: ClassVar = (*STAGES, INPAINTING)
    needs: ClassVar = ("image", "prompt")
    files: ClassVar = {
        "image": "The image; what is transparent in it is repainted if there are no mask and boxes",
        "mask": "An image of the same size; where it is transparent, the image is repainted",
    }  # fmt: skip
    prompt: str = knob("Caption of what the image shows then", default="")
    boxes: Boxes | None = knob(
        "Boxes that are repainted, [[x0, y0, x1, y1], …] in pixels from the upper left corner, x1 "
        "and y1 just outside", left_out="only what is transparent is",
    )  # fmt: skip


@dataclass(frozen=True)
class Variation(Streamed):
    """Make variations of an image."""

    stages: ClassVar = DECODING
    needs: ClassVar = ("image",)
    files: ClassVar = {"image": "The image, of any size"}


@dataclass(frozen=True)
class Blend(AskedImages):
    """Make images between two or more: slerp of their embeddings."""

    stages: ClassVar = DECODING
    needs: ClassVar = ("image",)
    files: ClassVar = {"image": "Images, two at least, in their order; or one file of latents"}
    frames: Images | None = knob("Number of images, the ends among them", left_out="5")
    weights: Weights | None = knob(
        "Weights, one for each image: a single image of their weighted mean, instead of frames",
        left_out="images from the first to the last",
    )
    noise: str | None = knob(
        "Noise between inverted images: slerp of theirs too, or the first one's for all",
        choices=("slerp", "fixed"), left_out="slerp",
    )  # fmt: skip
    size: str | None = knob('Size as "WIDTHxHEIGHT", or "auto"', left_out="the largest")
    invert: bool = knob(
        "Whether to start from the images' own noise, not fresh noise", default=False
    )
    invert_steps: Annotated[int, Between(1, 1000)] = knob("Steps of the inversion", default=100)


@dataclass(frozen=True)
class TextEdit(AskedImages):
    """Change an image by the difference of two texts, keeping the rest."""

    stages: ClassVar = DECODING
    needs: ClassVar = ("image", "prompt")
    files: ClassVar = {"image": "The image, or a file of latents"}
    prompt: str = knob("Text of what the image should become", default="")
    source_prompt: str = knob("Text of what it is now", default="", left_out="the empty one")
    theta: Probability | Thetas = knob(
        "Angle θ, how far, 0 to 1, or a list of several, each of which makes an image", default=0.4
    )
    size: str | None = knob('Size as "WIDTHxHEIGHT", or "auto"', left_out="the largest")
    invert: bool = knob(
        "Whether to start from the image's own noise, not fresh noise", default=True
    )
    invert_steps: Annotated[int, Between(1, 1000)] = knob("Steps of the inversion", default=100)


@dataclass(frozen=True)
class Inversion(Asked):
    """Find the latents of an image: its embedding z_i and the noise x_T that leads back to it."""

    needs: ClassVar = ("image",)
    files: ClassVar = {"image": "The image, of any size"}
    invert_steps: Annotated[int, Between(1, 1000)] = knob("Steps of the inversion", default=100)


@dataclass(frozen=True)
class Upscaling(AskedImages):
    """Make an image larger by the model's upsamplers."""

    stages: ClassVar = UPSAMPLING
    needs: ClassVar = ("image",)
    files: ClassVar = {"image": "The image, of any size"}
    size: Annotated[int, Between(1, 4096)] | None = knob(
        "Pixels of the longer side", left_out="one pass of the nearest upsampler"
    )


@dataclass(frozen=True)
class Embedding(Asked):
    """Embed texts, or images, with CLIP."""

    files: ClassVar = {"image": "Images, of any size"}
    input: str | Texts | None = knob("Text or texts to embed", left_out="images are embedded")
    hidden_states: bool = knob(
        "Whether to give the hidden states of each text's tokens too, of 16 texts at most",
        default=False,
    )


@dataclass(frozen=True)
class Decoding(Sized):
    """Make images for CLIP image embeddings."""

    stages: ClassVar = DECODING
    needs: ClassVar = ("embedding",)
    embedding: Row | Rows | None = knob("Embedding z_i, or several")


@dataclass(frozen=True)
class Probing(AskedImages):
    """Decode an image's embedding rebuilt from its first principal components."""

    stages: ClassVar = DECODING
    needs: ClassVar = ("image", "embeddings")
    files: ClassVar = {"image": "The image, of any size"}
    embeddings: Rows | None = knob("Embeddings of many images, whose components are taken")
    components: Annotated[tuple[Annotated[int, Between(0, 2**16)], ...], Between(1, 10)] | None = (
        knob("Numbers of components, each of which makes an image", left_out="the paper's")
    )
    size: str | None = knob('Size as "WIDTHxHEIGHT", or "auto"', left_out="the largest")


def sampling_knobs(kind: type[Asked]) -> list[str]:
    """The names of the knobs of sampling that a request of this kind may say."""
    own = knobs_of(kind)
    return [name for name in concerning(known(), kind.stages) if name not in own]


def schema_of(kind: type[Asked]) -> dict[str, Any]:
    """A JSON schema of a request without its files, an object."""
    schema, sampling = json_schema(kind), json_schema(known())["properties"]
    schema.pop("$schema")
    properties: dict[str, Any] = schema["properties"]
    properties |= {name: sampling[name] for name in sampling_knobs(kind)}
    schema["description"] = kind.__doc__
    for name in kind.needs:
        if name in properties:
            properties[name].pop("default", None)
    if kind.needs:
        schema["required"] = list(kind.needs)
    return schema


def read(kind: type[T], body: Mapping[str, Any], texts: bool, given: Sequence[str] = ()) -> tuple[
    T, Settings
]:  # fmt: skip
    """A request's fields, and its knobs of sampling.

    Args:
        body: by name; null is left out.
        texts: whether values are texts of a form.
        given: names of files that came beside them.

    Raises:
        RefusedError: 400, with the field that is unknown, missing or makes no sense.
    """
    own, sampling = {f.name for f in fields(kind)}, set(sampling_knobs(kind))
    values: dict[str, Any] = {}
    for name, value in body.items():
        if name in kind.files:
            raise RefusedError(
                400, f"send {name} as a file of a form (multipart/form-data)", param=name,
                code="invalid_value",
            )  # fmt: skip
        if name not in own | sampling:
            near = suggest(name, sorted(own | sampling | set(kind.files)))
            raise RefusedError(
                400, f"there is no field {shown(name)} here{near}", param=name[:100],
                code="unknown_parameter",
            )  # fmt: skip
        if value is None:
            continue
        owner: Any = kind if name in own else known()
        value = _meant(hints_of(owner)[name], value) if texts else value
        try:
            values[name] = getattr(owner(**{name: value}), name)
        except ValueError as error:
            raise RefusedError(400, str(error), param=name, code="invalid_value") from None
    for name in kind.needs:
        if name not in values and name not in given:
            raise RefusedError(400, f"{name} is missing", param=name, code="missing_parameter")
    try:
        settings = known()(**{name: values[name] for name in values.keys() & sampling})
        return kind(**{name: values[name] for name in values.keys() & own}), settings
    except ValueError as error:
        raise RefusedError(400, str(error)) from None


def _meant(hint: Any, value: Any) -> Any:
    """The value that a form's text, or list of texts, stands for."""
    kinds = _kinds(hint)
    if isinstance(value, list):
        return [_parsed(one) if str not in _leaves(hint) else one for one in value]
    return value if str in kinds else _parsed(value)


def _parsed(text: str) -> Any:
    if not re.match(r"[-\d.tfnI\[]", text) or len(text) > 2**24:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _kinds(hint: Any) -> set[Any]:
    """The types that a hint takes, without their bounds."""
    if typing.get_origin(hint) is Annotated:
        return _kinds(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return set().union(*map(_kinds, typing.get_args(hint)))
    return {typing.get_origin(hint) or hint}


def _leaves(hint: Any) -> set[Any]:
    args = [one for one in typing.get_args(hint) if not isinstance(one, Between)]
    return set().union(*map(_leaves, args)) if args else {hint}
