"""The knobs of sampling as fields of the page, made of what the knobs say of themselves."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from unclip.interfaces.server.desk import Desk
from unclip.pipeline.knobs import concerning, json_schema, knobs_of
from unclip.pipeline.settings import Settings, known

_FIRST = ("steps", "decoder_guidance_scale", "negative_prompt")
"""Those that stand before the others."""
OWN = "the model's own"


def knob_fields(desk: Desk) -> tuple[dict[str, Any], dict[str, Any]]:
    """A field for each knob: those that people turn first, and all others."""
    names = [name for name in knobs_of(known()) if name != "size"]
    first = {"size": _size(desk)}
    first |= {name: _field(name) for name in _FIRST if name in names}
    with gr.Accordion("All knobs of sampling", open=False, elem_id="knobs"):
        gr.Markdown("What is empty is left to the model. Each tab takes those that concern it.")
        others = {name: _field(name) for name in names if name not in _FIRST}
    return first, others


def _size(desk: Desk) -> Any:
    choices = [(f"{size} × {size}", size) for size in desk.pipe.sizes]
    return gr.Dropdown(choices, value=desk.pipe.sizes[-1], label="Size")


def _field(name: str) -> Any:
    one, schema = knobs_of(known())[name], json_schema(known())["properties"][name]
    label = name.replace("_", " ").replace("num inference ", "")
    label = label[:1].upper() + label[1:]
    if name == "steps":
        return gr.Dropdown([*one.words], value="default", label="Quality",
                           info="One step, few, the model's own, the paper's.")  # fmt: skip
    info = f"{one.help}."
    if one.words:
        return gr.Dropdown([(OWN, ""), *((w, w) for w in one.words)], value="", label=label,
                           info=info)  # fmt: skip
    kinds = {part.get("type") for part in schema.get("anyOf", [schema])}
    if kinds & {"integer", "number"}:
        return gr.Textbox(label=label, info=info, placeholder=OWN, max_lines=1)
    placeholder = "lowest highest" if "array" in kinds and "string" not in kinds else ""
    return gr.Textbox(label=label, info=info, placeholder=placeholder, max_lines=1)


def settings_of(values: Mapping[str, Any], stages: Sequence[str], sizes: Sequence[int]) -> Settings:
    """What a form's knobs say, those of some stages.

    Raises:
        ValueError: one makes no sense.
    """
    said: dict[str, Any] = {}
    for name in concerning(known(), stages):
        value = values.get(name)
        if isinstance(value, str):
            value = value.strip()
            value = _meant(name, value) if value else None
        if value is not None and not (name == "size" and value == sizes[-1]):
            said[name] = value
    return known()(**said)


def _meant(name: str, text: str) -> Any:
    """The value that a text stands for."""
    schema = json_schema(known())["properties"][name]
    kinds = {part.get("type") for part in schema.get("anyOf", [schema])}
    if knobs_of(known())[name].words or "string" in kinds:
        return text
    if "array" in kinds:
        return tuple(float(word) if _is_number(word) else word for word in text.split())
    try:
        return json.loads(text.replace(",", "."))
    except ValueError:
        return float(text) if _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def told(settings: Settings, sizes: Sequence[int]) -> dict[str, Any]:
    """The fields' values that say these settings; of those that say nothing, nothing."""
    values: dict[str, Any] = {}
    for name, value in vars(settings).items():
        if name == "size":
            values[name] = value if value in sizes else sizes[-1]
        elif isinstance(value, tuple):
            values[name] = " ".join(map(str, value))
        else:
            values[name] = "" if value is None else str(value)
    return values
