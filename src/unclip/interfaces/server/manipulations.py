"""What OpenAI's API has no words for: /v1/unclip/…"""

import asyncio
import base64
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from torch import Tensor

from unclip.interfaces.server.answers import Made, listed, unless_gone
from unclip.interfaces.server.fields import (
    MOST_IMAGES,
    Blend,
    Decoding,
    Embedding,
    Inversion,
    Probing,
    TextEdit,
    Upscaling,
)
from unclip.interfaces.server.openai import Order, command_notes, ordered
from unclip.interfaces.server.refusals import RefusedError
from unclip.networks.pca import Components, Moments
from unclip.outputs.latents import Latents, check_embeddings
from unclip.pipeline.latent_space import (
    Points,
    check_frames,
    check_thetas,
    check_weights,
    mean_direction,
    path,
    text_edited,
)
from unclip.pipeline.manipulations import probed
from unclip.pipeline.together import Planned, Wanted, decoded_from

Watch = Callable[[str, int, Any], None]
Source = list[Image.Image] | Latents
_HIDDEN = 16  # texts of a request whose hidden states are given


async def blend(request: Request) -> Response:
    """POST /v1/unclip/blend."""
    order = await ordered(request.app.state.desk, request, Blend, image=16)
    source, asked = await _source(order), order.asked
    count = _blended(order, source)

    def between(z_i: Tensor, x_t: Tensor | None) -> Points:
        def mean(points: Tensor) -> Tensor:
            return path(points, count) if weights is None else mean_direction(points, weights)

        if x_t is None:
            return Points(mean(z_i))
        fixed = asked.noise == "fixed"
        return Points(mean(z_i), x_t[:1].expand(count, *x_t.shape[1:]) if fixed else mean(x_t))

    weights = asked.weights
    words = ["blend", *["IMAGE"] * len(source)]
    words += ["--frames", str(count)] if weights is None else ["--weights", *map(str, weights)]
    words += ["--invert"] * asked.invert + (["--noise", asked.noise] if asked.noise else [])
    return await _decoded(order, source, between, words, count)


def _blended(order: Order, source: Source) -> int:
    """The number of images that a blend is asked for; RefusedError where its fields do not fit."""
    asked, points = order.asked, len(source)
    if asked.noise is not None and not (asked.invert or isinstance(source, Latents)):
        raise RefusedError(400, "noise is of inverted images: say invert", param="noise",
                           code="invalid_value")  # fmt: skip
    if asked.weights is None:
        frames = 5 if asked.frames is None else asked.frames
        _refused("image", lambda: check_frames(frames, points))
        return frames
    if asked.frames is not None:
        raise RefusedError(400, "weights make one image: leave frames out", param="frames",
                           code="invalid_value")  # fmt: skip
    _refused("weights", lambda: check_weights(asked.weights, points))
    return 1


async def edit(request: Request) -> Response:
    """POST /v1/unclip/edit."""
    order = await ordered(request.app.state.desk, request, TextEdit)
    source, asked = await _source(order), order.asked
    thetas = _refused("theta", lambda: check_thetas(asked.theta))
    if len(source) * len(thetas) > MOST_IMAGES:
        raise RefusedError(400, f"ask for {MOST_IMAGES} images at most", param="theta")
    if not asked.prompt.strip() or asked.prompt == asked.source_prompt:
        raise RefusedError(400, "say what the image should become, and that it is not yet",
                           param="prompt")  # fmt: skip

    def moved(z_i: Tensor, x_t: Tensor | None) -> Points:
        direction = order.desk.pipe.text_direction(asked.prompt, asked.source_prompt)
        return text_edited(z_i, x_t, direction, thetas)

    words = ["edit", "IMAGE", "--to", asked.prompt, "--from", asked.source_prompt]
    words += ["--invert" if asked.invert else "--no-invert"]
    return await _decoded(order, source, moved, words, len(source) * len(thetas), edits=True)


async def decode(request: Request) -> Response:
    """POST /v1/unclip/decode."""
    order = await ordered(request.app.state.desk, request, Decoding)
    given, pipe = order.asked.embedding, order.desk.pipe
    z_i = _refused("embedding", lambda: check_embeddings(torch.tensor(given), pipe.clip.width))
    if len(z_i) * order.asked.n > MOST_IMAGES:
        raise RefusedError(400, f"ask for {MOST_IMAGES} images at most", param="n")
    z_i = z_i.repeat_interleave(order.asked.n, dim=0)
    seeds = order.seeds(order.asked.n) * (len(z_i) // order.asked.n)
    rows = _planned(order, Points(z_i), seeds)
    notes = [
        command_notes(order.desk, ["decode", "EMBEDDINGS"], seed, order.settings) for seed in seeds
    ]

    async def made() -> list[Image.Image]:
        with order.desk.scheduler.place(order.client, order.desk.limits.seconds) as place:
            return await place.images(rows)

    return await _listed(order, await unless_gone(request.receive, made()), notes, seeds)


async def probe(request: Request) -> Response:
    """POST /v1/unclip/probe."""
    order = await ordered(request.app.state.desk, request, Probing)
    source, width = await _source(order), order.desk.pipe.clip.width
    given = torch.tensor(_even(order.asked.embeddings))
    basis = _refused(
        "embeddings", lambda: Components.of(Moments.of(check_embeddings(given, width)))
    )
    counts = order.asked.components or probed(width)
    if max(counts) > width:
        raise RefusedError(400, f"there are {width} components", param="components")

    def rebuilt(z_i: Tensor, x_t: Tensor | None) -> Points:
        return Points(torch.cat([basis.rebuilt(z_i, count) for count in counts]))

    return await _decoded(order, source, rebuilt, ["probe", "IMAGE"], len(counts))


async def invert(request: Request) -> Response:
    """POST /v1/unclip/invert: z_i, and a file of latents as base64."""
    order = await ordered(request.app.state.desk, request, Inversion)
    source = await _source(order)
    if isinstance(source, Latents):
        raise RefusedError(400, "these are latents already: give an image", param="image")
    latents = await _called(order, lambda watch: _inverted(order, source, watch))
    data = await asyncio.to_thread(_file_of, latents)
    said = {"z_i": latents.z_i[0].tolist(), "latents": base64.b64encode(data).decode(),
            "steps": latents.steps}  # fmt: skip
    return JSONResponse({"object": "list", "data": [said]})


async def upscale(request: Request) -> Response:
    """POST /v1/unclip/upscale."""
    order = await ordered(request.app.state.desk, request, Upscaling)
    pipe, image, [seed] = order.desk.pipe, await order.image("image"), order.seeds(1)
    settings = order.settings.with_values({"size": order.asked.size})
    _refused("size", lambda: pipe.upscaling_steps(image, settings))

    def enlarged(watch: Watch) -> Image.Image:
        made = pipe.upscale(
            image, seed=seed, settings=settings, callback_on_step_end=_watching(watch)
        )
        picture: Image.Image = made.images[0]
        return picture

    made = await _called(order, enlarged)
    order.desk.metrics.images.inc()
    notes = command_notes(order.desk, ["upscale", "IMAGE"], seed, settings)
    return await _listed(order, [made], [notes], [seed])


async def embed(request: Request) -> Response:
    """POST /v1/unclip/embed: as OpenAI answers embeddings."""
    order = await ordered(request.app.state.desk, request, Embedding, image=16)
    pipe, given = order.desk.pipe, order.asked.input
    count = len(order.body.files.get("image", ()))
    if (given is None) == (count == 0):
        raise RefusedError(400, "give input, texts, or image, files", param="input",
                           code="missing_parameter")  # fmt: skip
    texts = [given] if isinstance(given, str) else list(given or ())
    if not all(text.strip() for text in texts):
        raise RefusedError(400, "a text is empty", param="input", code="invalid_value")
    if texts:
        order.desk.notices(*texts)
    images = [await order.image("image", number) for number in range(count)]
    if order.asked.hidden_states and not 0 < len(texts) <= _HIDDEN:
        raise RefusedError(400, f"hidden_states are of 1 to {_HIDDEN} texts",
                           param="hidden_states", code="invalid_value")  # fmt: skip

    def embedded(_: Watch) -> tuple[Tensor, list[Tensor]]:
        if images:
            return pipe.embed_images(images), []
        text = pipe.clip.text(pipe.captions(texts))
        shown = zip(text.hidden, text.mask, strict=True) if order.asked.hidden_states else ()
        return text.z_t, [hidden[mask.bool()] for hidden, mask in shown]

    z, hidden = await _called(order, embedded)
    data: list[dict[str, Any]] = [
        {"object": "embedding", "index": k, "embedding": row} for k, row in enumerate(z.tolist())
    ]
    for one, states in zip(data, hidden, strict=False):
        one["hidden_states"] = states.float().tolist()
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    return JSONResponse({"object": "list", "data": data, "model": order.desk.name, "usage": usage})


# ---- what they share -----------------------------------------------------------------------------


async def _source(order: Order) -> Source:
    """The images of a request, or what one file of latents holds."""
    files = order.body.files["image"]
    if len(files) == 1 and files[0][8:9] == b"{":
        latents: Latents = _refused("image", lambda: _latents(order, files[0]))
        return latents
    return [await order.image("image", number) for number in range(len(files))]


def _latents(order: Order, data: bytes) -> Latents:
    pipe = order.desk.pipe
    with _scratch() as file:
        file.write_bytes(data)
        try:
            latents = Latents.load(file)
        except ValueError as error:
            raise ValueError(str(error).replace(str(file), "image")) from None
    latents.check(pipe.clip.width, pipe.decoder.size, pipe.fingerprint)
    if len(latents) > MOST_IMAGES:
        raise ValueError(f"the file holds more than {MOST_IMAGES} latents")
    return latents


def _file_of(latents: Latents) -> bytes:
    with _scratch() as file:
        try:
            latents.save(file)
        except ValueError as error:  # what a full disk is to whoever saves
            raise OSError(str(error)) from None
        return file.read_bytes()


@contextmanager
def _scratch() -> Iterator[Path]:
    """The place of a file that is there for a moment; RefusedError 503 where there is no room."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "latents.safetensors"
    except OSError:
        raise RefusedError(
            503, "the server's disk has no room for latents", code="no_room"
        ) from None


async def _decoded(
    order: Order,
    source: Source,
    find: Callable[[Tensor, Tensor | None], Points],
    words: Sequence[str],
    count: int,
    edits: bool = False,
) -> Response:
    """Images for what `find` makes of the source's (z_i, x_T), all with the noise of one seed."""
    desk, asked = order.desk, order.asked
    if desk.pipe.clip.processor is None:
        raise RefusedError(400, "this model has no image_encoder: it takes captions, not images")
    inverts = isinstance(source, Latents) or getattr(asked, "invert", False)
    steps = source.steps if isinstance(source, Latents) else getattr(asked, "invert_steps", 1)
    settings = order.settings.for_reconstruction(steps, edits) if inverts else order.settings
    seeds = order.seeds(1) * count  # one noise for all, as the pipeline has it
    _refused(None, lambda: Planned(desk.pipe, Wanted(settings, z_i=torch.zeros(1))))

    def latents(watch: Watch) -> Points:
        if isinstance(source, Latents):
            return find(source.z_i, source.x_T)
        if inverts:
            found = _inverted(order, source, watch)
            return find(found.z_i, found.x_T)
        return find(desk.pipe.embed_images(source).cpu(), None)

    async def made() -> list[Image.Image]:
        with desk.scheduler.place(order.client, desk.limits.seconds) as place:
            points = await place.call(latents)
            return await place.images(_planned(order, points, seeds, settings))

    images = await unless_gone(order.request.receive, made())
    notes = [command_notes(order.desk, words, seed, order.settings) for seed in seeds]
    return await _listed(order, images, notes, seeds)


def _planned(
    order: Order, points: Points, seeds: Sequence[int], settings: Any = None
) -> list[Planned]:
    pipe, used = order.desk.pipe, settings or order.settings
    wanted = decoded_from(points, used, seeds)
    planned: list[Planned] = _refused(None, lambda: [Planned(pipe, one) for one in wanted])
    return planned


async def _called(order: Order, work: Callable[[Watch], Any]) -> Any:
    async def done() -> Any:
        with order.desk.scheduler.place(order.client, order.desk.limits.seconds) as place:
            return await place.call(work)

    return await unless_gone(order.request.receive, done())


def _inverted(order: Order, images: list[Image.Image], watch: Watch) -> Latents:
    steps, pipe = order.asked.invert_steps, order.desk.pipe
    return pipe.invert(images, steps, callback_on_step_end=_watching(watch))


def _watching(watch: Watch) -> Callable[..., None]:
    def step(_: Any, i: int, t: float, state: dict[str, Any]) -> None:
        watch(state["stage"], i, state["x0"])

    return step


async def _listed(
    order: Order,
    images: Sequence[Image.Image],
    notes: Sequence[dict[str, Any]],
    seeds: Sequence[int],
) -> Response:
    common = order.desk.notes(order.settings, order.id)
    infos = [{**own, **common} for own in notes]
    more = {"seeds": list(seeds), "notices": list(order.notices)}
    return await listed(order.desk, order.request, order.asked, Made(images, infos, more))


def _even(rows: Any) -> Any:
    if len({len(row) for row in rows}) > 1:
        raise RefusedError(400, "embeddings have different widths", param="embeddings")
    return rows


def _refused(param: str | None, work: Callable[[], Any]) -> Any:
    """What `work` gives; its ValueError is a 400 that names the field."""
    try:
        return work()
    except ValueError as error:
        raise RefusedError(400, str(error), param=param, code="invalid_value") from None
