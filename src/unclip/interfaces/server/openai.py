"""OpenAI's endpoints: generations, edits, variations, models; answers as its client reads them."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from unclip.checks import seed_after
from unclip.data.transforms import image_size, open_image, open_transparency
from unclip.device.precision import name_of
from unclip.interfaces.server.answers import (
    UNCOUNTED,
    Events,
    Made,
    check_format,
    event,
    listed,
    unless_gone,
)
from unclip.interfaces.server.bodies import Body, read_body
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.fields import Asked, AskedImages, Edit, Generation, Streamed, read
from unclip.interfaces.server.fields import Variation as Varied
from unclip.interfaces.server.refusals import RefusedError
from unclip.pipeline.inpainting import plan_hole
from unclip.pipeline.settings import Settings, flags
from unclip.pipeline.together import Planned, Wanted, glimpse

_EVENTS = {Edit: "image_edit"}  # what the client calls them; "image_generation" else


@dataclass(frozen=True)
class Order:
    """A request that was read.

    Attributes:
        request: as it came, with its id and its client.
        asked, settings: what it says.
        body: with its files.
        notices: what its client should know.
    """

    desk: Desk
    request: Request
    asked: Any
    settings: Settings
    body: Body
    notices: Sequence[str] = ()

    @property
    def id(self) -> str:
        identity: str = self.request.state.id
        return identity

    @property
    def client(self) -> str:
        name: str = self.request.state.client
        return name

    def seeds(self, count: int) -> list[int]:
        """Of `count` images: from the one that was asked for, or one that is drawn."""
        first = self.asked.seed
        if first is None:
            first = secrets.randbits(32)
        return [seed_after(first, number) for number in range(count)]

    async def image(self, name: str, number: int = 0) -> Image.Image:
        """A file of the form, opened as everywhere; RefusedError 400 if it is none."""
        return await asyncio.to_thread(_opened, self.body.files[name][number], self.desk, name)


def _opened(data: bytes, desk: Desk, name: str) -> Image.Image:
    try:
        return open_image(data, max_pixels=desk.limits.pixels, name=name)
    except ValueError as error:
        raise RefusedError(400, str(error), param=name, code="invalid_image") from None


async def ordered(desk: Desk, request: Request, kind: type[Asked], **files: int) -> Order:
    """A request, read and checked as far as its fields go.

    Args:
        files: how many files each field may hold; one where it is not said.
    """
    body = await read_body(request, desk.limits)
    given = list(body.files)
    for name, there in body.files.items():
        if name not in kind.files:
            raise RefusedError(
                400, f"there is no file {name[:100]!r} here", param=name[:100],
                code="unknown_parameter",
            )  # fmt: skip
        if len(there) > files.get(name, 1):
            raise RefusedError(400, f"{name} is one file here, not {len(there)}", param=name)
        for data in there:
            if data[8:9] != b"{":  # no latents, whose header begins so
                _check_size(data, desk, name)
    asked, settings = read(kind, body.values, body.form, given)
    desk.check_model(asked.model)
    if isinstance(asked, AskedImages):
        check_format(asked)
        size = getattr(asked, "size", None)
        if "size" in kind.__dataclass_fields__ and kind is not Edit and not isinstance(size, int):
            settings = settings.with_values({"size": desk.size(size)})
    request.state.user = asked.user
    prompts = [getattr(asked, name) for name in ("prompt", "source_prompt") if hasattr(asked, name)]
    if prompts:
        request.state.prompt = prompts[0]
    return Order(desk, request, asked, settings, body, desk.notices(*prompts) if prompts else [])


def _check_size(data: bytes, desk: Desk, name: str) -> None:
    """Refuse what is no image, or too large a one, before anything of it is decoded."""
    try:
        image_size(data, max_pixels=desk.limits.pixels, name=name)
    except ValueError as error:
        raise RefusedError(400, str(error), param=name, code="invalid_image") from None


async def generations(request: Request) -> Response:
    """POST /v1/images/generations."""
    order = await ordered(request.app.state.desk, request, Generation)

    def wanted(seed: int) -> Wanted:
        return Wanted(order.settings, seed, order.asked.prompt)

    return await answer(order, wanted, lambda seed: {"prompt": order.asked.prompt, "seed": seed})


async def edits(request: Request) -> Response:
    """POST /v1/images/edits."""
    desk: Desk = request.app.state.desk
    order = await ordered(desk, request, Edit)
    image, own = await order.image("image"), order.asked.boxes or ()
    mask = await _mask(order)
    size = f"{image.width}x{image.height}"
    if order.asked.size not in (None, "auto", size):
        raise RefusedError(400, f"an edit has its image's size, {size}", param="size")
    try:
        hole = await asyncio.to_thread(plan_hole, image, mask, own, desk.pipe.sizes[-1])
    except ValueError as error:
        name = "boxes" if mask is None else "mask"
        raise RefusedError(400, str(error), param=name, code="invalid_image") from None

    def wanted(seed: int) -> Wanted:
        return Wanted(order.settings, seed, order.asked.prompt, hole=hole)

    words = ["inpaint", "IMAGE", *["MASK"] * (mask is not None), order.asked.prompt]
    words += [word for box in own for word in ("--box", ",".join(map(str, box)))]
    return await answer(
        order, wanted, lambda seed: command_notes(order.desk, words, seed, order.settings), image
    )


async def _mask(order: Order) -> Image.Image | None:
    """What is transparent in the mask, or, without mask and boxes, in the image."""
    name = "mask" if "mask" in order.body.files else "image"
    if name == "image" and order.asked.boxes:
        return None
    pixels = order.desk.limits.pixels
    try:
        return await asyncio.to_thread(
            open_transparency, order.body.files[name][0], max_pixels=pixels, name=name
        )
    except ValueError as error:
        more = "" if name == "mask" else (
            ": give a mask, boxes, or an image with a transparent part; /v1/unclip/edit changes "
            "all of an image by words"
        )  # fmt: skip
        said = f"{error}{more}"
        raise RefusedError(400, said, param="mask", code="invalid_image") from None


async def variations(request: Request) -> Response:
    """POST /v1/images/variations."""
    order = await ordered(request.app.state.desk, request, Varied)
    image = await order.image("image")
    if request.app.state.desk.pipe.clip.processor is None:
        raise RefusedError(400, "this model has no image_encoder: it takes captions, not images")

    def wanted(seed: int) -> Wanted:
        return Wanted(order.settings, seed, image=image)

    words = ["vary", "IMAGE"]
    return await answer(
        order, wanted, lambda seed: command_notes(order.desk, words, seed, order.settings)
    )


async def models(request: Request) -> Response:
    """GET /v1/models."""
    return JSONResponse({"object": "list", "data": [_model(request.app.state.desk)]})


async def model(request: Request) -> Response:
    """GET /v1/models/NAME."""
    desk: Desk = request.app.state.desk
    desk.check_model(request.path_params["name"])
    return JSONResponse(_model(desk))


async def kept(request: Request) -> Response:
    """GET /v1/images/files/NAME: an image of an answer with `response_format` "url"."""
    data, kind = request.app.state.desk.kept.get(request.path_params["name"])
    return Response(data, media_type=kind)


def _model(desk: Desk) -> dict[str, Any]:
    return {
        "id": desk.name, "object": "model", "created": desk.started, "owned_by": "unclip",
        "unclip": {"sizes": desk.pipe.sizes, "priors": list(desk.pipe.priors)},
    }  # fmt: skip


def opening_words(desk: Desk) -> list[str]:
    """The flags of a command that does as the desk does, whatever is asked of it."""
    model = ["--model", desk.model] if desk.model else []
    mark = [] if desk.provenance.watermark else ["--no-watermark"]
    return [*model, "--precision", name_of(desk.pipe.dtype), *mark]


def command_notes(
    desk: Desk, words: Sequence[str], seed: int, settings: Settings
) -> dict[str, Any]:
    """What the notes of an image that was made of another say: the command that does the same."""
    command, named = [*words, *opening_words(desk), "--seed", str(seed)], flags()
    for name, value in settings.changed().items():
        values = value if isinstance(value, tuple) else (value,)
        command += [f"--{named[name]}", *map(str, values)]
    return {"command": command, "seed": seed}


async def answer(
    order: Order,
    wanted: Callable[[int], Wanted],
    info: Callable[[int], Mapping[str, Any]],
    kept: Image.Image | None = None,
) -> Response:
    """Images for a request, a seed each, in one answer or as they come.

    Args:
        wanted: the image of a seed.
        info: what its notes say beside what all notes say.
        kept: an image whose pixels, where the results have them too, no mark changes.
    """
    desk, asked = order.desk, order.asked
    _check_stream(asked)
    seeds = order.seeds(asked.n)
    try:
        rows = [Planned(desk.pipe, wanted(seed)) for seed in seeds]
    except ValueError as error:
        raise RefusedError(400, str(error), code="invalid_value") from None
    notes = desk.notes(order.settings, order.id)
    infos = [{**info(seed), **notes} for seed in seeds]
    more = {"seeds": seeds, "notices": list(order.notices)}
    if asked.stream:
        return Events(_streamed(order, rows[0], Made([], infos, more, kept)))

    async def made() -> Sequence[Image.Image]:
        with desk.scheduler.place(order.client, desk.limits.seconds) as place:
            return await place.images(rows)

    images = await unless_gone(order.request.receive, made())
    return await listed(desk, order.request, asked, Made(images, infos, more, kept))


def _check_stream(asked: Streamed) -> None:
    for wrong, name, sentence in (
        (asked.partial_images and not asked.stream, "partial_images", "needs stream"),
        (asked.stream and asked.n > 1, "n", "must be 1 with stream"),
        (asked.stream and asked.response_format == "url", "response_format",
         "must be b64_json with stream"),
    ):  # fmt: skip
        if wrong:
            raise RefusedError(400, f"{name} {sentence}", param=name, code="invalid_value")


def moments(steps: int, images: int) -> list[int]:
    """The decoder's steps after which an image on the way is told: all in the first half of them,
    so that the first comes before half of the time has gone."""
    return sorted({max(0, round(steps * (k + 1) / (images + 3)) - 1) for k in range(images)})


async def _streamed(order: Order, row: Planned, made: Made) -> AsyncIterator[bytes]:
    """Events of one image: those on the way, then itself.

    Args:
        made: what is said with it, without the image.
    """
    info, kept = made.infos[0], made.kept
    desk, asked, loop = order.desk, order.asked, asyncio.get_running_loop()
    kind = _EVENTS.get(type(asked), "image_generation")
    told: asyncio.Queue[Image.Image] = asyncio.Queue()
    when = moments(row.decoding, asked.partial_images)

    def step(number: int, stage: str, at: int, x0: Any) -> None:
        if stage == "decoder" and at in when:
            loop.call_soon_threadsafe(told.put_nowait, glimpse(desk.pipe, row, x0))

    with desk.scheduler.place(order.client, desk.limits.seconds) as place:
        yield b": there is a place\n\n"
        making = asyncio.ensure_future(place.images([row], step))
        try:
            sent = 0
            while not making.done() or not told.empty():
                getting = asyncio.ensure_future(told.get())
                await asyncio.wait({making, getting}, return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    image = getting.result()
                    yield await asyncio.to_thread(
                        event, f"{kind}.partial_image", asked, image, info, desk.provenance,
                        kept, partial_image_index=sent,
                    )  # fmt: skip
                    sent += 1
                else:
                    getting.cancel()
            [image] = making.result()
        finally:
            making.cancel()
    yield await asyncio.to_thread(
        event, f"{kind}.completed", asked, image, info, desk.provenance, kept, usage=UNCOUNTED,
        unclip=dict(made.more),
    )  # fmt: skip
