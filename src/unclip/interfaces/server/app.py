"""The application: which address does what.

Other things can be mounted beside these routes (`application(desk).mount("/", page)`, above all a
page for people): the guard, which `guarded` puts around all of it, gives them ids, logs and limits.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from unclip import __version__
from unclip.interfaces.server import manipulations, openai
from unclip.interfaces.server.describing import page, schema
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.fields import (
    Asked,
    Blend,
    Decoding,
    Edit,
    Embedding,
    Generation,
    Inversion,
    Probing,
    TextEdit,
    Upscaling,
    Variation,
)
from unclip.interfaces.server.guard import Guard
from unclip.interfaces.server.refusals import RefusedError, answer_to

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """An address.

    Args:
        what: it does, in a sentence.
        asked: what its requests may say.
    """

    method: str
    path: str
    endpoint: Endpoint
    what: str
    asked: type[Asked] | None = None


async def health(request: Request) -> Response:
    """GET /health: the process answers."""
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """GET /ready: the model is open, and requests are taken."""
    desk: Desk = request.app.state.desk
    if desk.scheduler.closing:
        raise RefusedError(503, "the server is shutting down", code="shutting_down")
    return JSONResponse({"status": "ready", "model": desk.name})


async def metrics(request: Request) -> Response:
    """GET /metrics."""
    return Response(request.app.state.desk.metrics.text(), media_type="text/plain; version=0.0.4")


def _post(path: str, endpoint: Endpoint, asked: type[Asked]) -> Route:
    return Route("POST", path, endpoint, (asked.__doc__ or "").split("\n")[0], asked)


ROUTES = (
    _post("/v1/images/generations", openai.generations, Generation),
    _post("/v1/images/edits", openai.edits, Edit),
    _post("/v1/images/variations", openai.variations, Variation),
    Route("GET", "/v1/models", openai.models, "The model that is served, in a list."),
    Route("GET", "/v1/models/{name}", openai.model, "The model that is served."),
    Route("GET", "/v1/images/files/{name}", openai.kept, "An image of an answer with addresses."),
    _post("/v1/unclip/blend", manipulations.blend, Blend),
    _post("/v1/unclip/edit", manipulations.edit, TextEdit),
    _post("/v1/unclip/invert", manipulations.invert, Inversion),
    _post("/v1/unclip/upscale", manipulations.upscale, Upscaling),
    _post("/v1/unclip/embed", manipulations.embed, Embedding),
    _post("/v1/unclip/decode", manipulations.decode, Decoding),
    _post("/v1/unclip/probe", manipulations.probe, Probing),
    Route("GET", "/health", health, "Whether the process answers."),
    Route("GET", "/ready", ready, "Whether requests are taken."),
    Route("GET", "/metrics", metrics, "Numbers for Prometheus."),
)


def application(desk: Desk) -> FastAPI:
    """The routes of a desk. Pages may be mounted at the result before it is `guarded`."""
    app = FastAPI(
        title="unclip", version=__version__, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.desk = desk
    described = schema(ROUTES, desk.name)
    for route in ROUTES:
        app.add_route(route.path, _named(route.path, route.endpoint), methods=[route.method])

    async def openapi(request: Request) -> Response:
        return JSONResponse(described)

    async def docs(request: Request) -> Response:
        return HTMLResponse(page(described))

    app.add_route("/openapi.json", _named("/openapi.json", openapi))
    app.add_route("/docs", _named("/docs", docs))
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _answered)
    app.add_exception_handler(RefusedError, _answered)
    return app


def guarded(app: FastAPI, desk: Desk) -> Guard:
    """The application with the desk's rules around it, for a server."""
    return Guard(app, desk)


def _named(path: str, endpoint: Endpoint) -> Endpoint:
    async def named(request: Request) -> Response:
        request.state.endpoint = path
        return await endpoint(request)

    return named


def _http(request: Request, error: Any) -> Response:
    """What the framework refuses by itself: no such address, another method."""
    sentence = {
        404: "there is nothing at this address; see /docs",
        405: "this address takes another method; see /docs",
    }.get(error.status_code, str(error.detail))
    return _answered(request, RefusedError(error.status_code, sentence, headers=error.headers))


def _answered(request: Request, error: Exception) -> Response:
    request.scope["unclip.error"] = error
    return answer_to(error)
