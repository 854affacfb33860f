"""A brush over an image of the form: strokes as the browser tells them, and the mask that they are.

`brush.js` draws the same strokes in the browser.
"""

import json
import math
from importlib.resources import files
from typing import Any

import gradio as gr
from PIL import Image, ImageDraw

Stroke = list[float]
"""The brush's width in parts of the image's width, then x0, y0, x1, y1, … in parts of its width and
height."""
IMAGE = "inpaint-image"
"""The field's id whose image is brushed over; `brush.js` knows it."""
_MOST = 200_000  # numbers of all strokes
_EASEL = """<div class="brush" hidden><div class="easel"><img alt="the image to brush over">
<canvas tabindex="0" role="application" aria-label="Brush over what is to be repainted: the arrows
move the brush, the space bar puts it on the image and lifts it"></canvas></div>
<div class="row"><label>Brush <input type="range" min="2" max="40" value="12"
aria-label="Width of the brush in percent of the image's"></label>
<button type="button" data-brush="undo">Undo</button>
<button type="button" data-brush="clear">Clear</button></div></div>"""


def brush_field() -> Any:
    """Strokes over the image of the field `IMAGE`; its value is a text for `strokes_of`."""
    script = (files("unclip.interfaces.web") / "brush.js").read_text(encoding="utf-8")
    return gr.HTML("[]", html_template=_EASEL, js_on_load=script, apply_default_css=False)


def strokes_of(text: Any) -> list[Stroke]:
    """What the browser says; `ValueError` if it makes no sense."""
    try:
        strokes = json.loads(text or "[]")
        numbers = [len(one) for one in strokes]
        good = isinstance(strokes, list) and all(
            isinstance(x, int | float) and math.isfinite(x) and -10 < x < 10
            for one in strokes for x in one
        )  # fmt: skip
    except (TypeError, ValueError, RecursionError):
        raise ValueError("what was brushed is damaged: clear it, and brush again") from None
    if not good or sum(numbers) > _MOST or any(n < 3 or n % 2 == 0 for n in numbers):
        raise ValueError("what was brushed is damaged or too much: clear it, and brush again")
    return [list(map(float, one)) for one in strokes]


def mask_of(strokes: list[Stroke], size: tuple[int, int]) -> Image.Image:
    """A mask of an image of (width, height) pixels: white where it was brushed."""
    mask, (width, height) = Image.new("L", size, 0), size
    pen = ImageDraw.Draw(mask)
    for broad, *numbers in strokes:
        points = [(x * width, y * height) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
        across = max(1.0, abs(broad) * width)
        pen.line(points, fill=255, width=round(across), joint="curve")
        for x, y in points:
            pen.ellipse([x - across / 2, y - across / 2, x + across / 2, y + across / 2], fill=255)
    return mask
