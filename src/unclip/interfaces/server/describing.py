"""The API in words: an OpenAPI document, made of the fields' knobs, and a page without scripts."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from unclip import __version__
from unclip.interfaces.server.fields import schema_of

if TYPE_CHECKING:
    from unclip.interfaces.server.app import Route

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"}, "type": {"type": "string"},
                "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]},
            },
        }
    },
}  # fmt: skip
_REFUSALS = {
    "400": "A field is unknown, missing or makes no sense; `param` names it.",
    "401": "The key is missing or wrong.", "403": "A page of another site asks.",
    "404": "There is no such model, image or address.", "408": "The body came too slowly.",
    "413": "The body is too long.", "415": "The body is of another kind.",
    "429": "The queue is full; Retry-After says when to come again.",
    "500": "A fault of the server's.", "503": "The server is shutting down.",
    "504": "The request's time was up.",
}  # fmt: skip


def schema(routes: "Sequence[Route]", model: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "unclip", "version": __version__,
                 "description": f"Images by the model {model!r}, as OpenAI's images API has it."},
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }  # fmt: skip


def _operation(route: "Route") -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses: dict[str, Any] = {
        status: {"description": said, "content": error} for status, said in _REFUSALS.items()
    }
    kinds = {"/metrics": "text/plain", "/v1/images/files/{name}": "image/*"}
    kind = kinds.get(route.path, "application/json")
    responses["200"] = {"description": "The answer.", "content": {kind: {}}}
    operation: dict[str, Any] = {"summary": route.what, "responses": responses}
    if "{name}" in route.path:
        operation["parameters"] = [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    if route.asked is None:
        return operation
    body = schema_of(route.asked)
    content: dict[str, Any] = {}
    if not set(route.asked.files) & set(route.asked.needs):
        content["application/json"] = {"schema": body}
    if "stream" in body["properties"]:
        responses["200"]["content"]["text/event-stream"] = {}
    if route.asked.files:
        files = {
            name: {
                "type": "string",
                "contentMediaType": "application/octet-stream",
                "description": what,
            }
            for name, what in route.asked.files.items()
        }
        content["multipart/form-data"] = {
            "schema": {**body, "properties": {**files, **body["properties"]}}
        }
    operation["requestBody"] = {"required": True, "content": content}
    return operation


def page(described: dict[str, Any]) -> str:
    """The document as HTML: no script, nothing fetched."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>unclip: the API</title>",
        "<meta name=viewport content='width=device-width'><style>",
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;",
        "color-scheme:light dark}table{border-collapse:collapse;width:100%}td,th{text-align:left;",
        "vertical-align:top;padding:.25rem .5rem;border-bottom:1px solid #8884}",
        "</style><h1>unclip: the API</h1>",
        f"<p>{escape(described['info']['description'])} The same for programs: ",
        "<a href=openapi.json>openapi.json</a>.</p>",
    ]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation['summary'])}</p>")
            content = operation.get("requestBody", {}).get("content", {})
            for body in list(content.values())[-1:]:
                parts.append(f"<p>{escape(' or '.join(content))}</p>")
                parts.append(_table(body["schema"]))
    rows = "".join(f"<tr><td>{status}<td>{escape(said)}" for status, said in _REFUSALS.items())
    parts.append(f"<h2>What is refused, and how</h2><table>{rows}</table></html>")
    return "".join(parts)


def _table(body: dict[str, Any]) -> str:
    needed = body.get("required", ())
    rows = [
        f"<tr><td><code>{escape(name)}</code>{' (required)' if name in needed else ''}"
        f"<td>{escape(str(one.get('description', '')))}<td>{escape(_values(one))}"
        for name, one in body["properties"].items()
    ]
    return f"<table><tr><th>field<th>what it is<th>values{''.join(rows)}</table>"


def _values(one: dict[str, Any]) -> str:
    """The values of a schema in words."""
    if "anyOf" in one:
        return " or ".join(said for each in one["anyOf"] if (said := _values(each)) != "null")
    if "enum" in one:
        return ", ".join(map(str, one["enum"]))
    bounds = [
        f"{word} {one[key]:,}"
        for word, key in (("from", "minimum"), ("to", "maximum"))
        if key in one
    ]
    return " ".join([str(one.get("type", "")), *bounds])
