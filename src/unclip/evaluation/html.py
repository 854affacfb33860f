"""A report as one HTML file: nothing is fetched by whoever opens it, and nothing runs there.

Captions and names are anybody's text: all of it is escaped.
"""

import json
from base64 import b64encode
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from unclip.checks import printable
from unclip.data.transforms import from_bytes
from unclip.evaluation.plots import svg
from unclip.evaluation.report import Number, Report, Sheet
from unclip.files import write_text

_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 68em; padding: 0 1em;
  color: #1b1b1b; background: #fff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; } td, th { padding: .25em .8em .25em 0; text-align: left;
  vertical-align: top; border-bottom: 1px solid #ddd; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.note { color: #8a4b00; } .quiet { color: #666; font-size: .9em; }
.scroll { overflow-x: auto; }
img { display: block; image-rendering: pixelated; } svg { max-width: 100%; height: auto; }
.sheet { display: flex; flex-wrap: wrap; gap: 1em; align-items: flex-end; }
.card { max-width: 100%; } .card > div { display: flex; gap: 3px; flex-wrap: wrap; }
.card p { margin: 0 0 .3em; font-size: .85em; max-width: 20em; }
.plots { display: flex; flex-wrap: wrap; } .plot { flex: 1 1 30em; max-width: 42em; }
figure { margin: 0; } figcaption { font-size: .75em; color: #666; }
pre { white-space: pre-wrap; font-size: .85em; color: #444; }
"""
_SHOWN: Final = 128  # pixels that a small picture is shown at, at least
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_html(report: Report, file: Path) -> None:
    """Write the report, whole or not at all.

    Raises:
        ValueError: the place cannot be written.
    """
    write_text(file, page(report))


def page(report: Report) -> str:
    """The report as an HTML document."""
    title = _text(report.title)
    parts = [f"<h1>{title}</h1>", _summary(report), _notes(report)]
    parts += [_plots(report)]
    parts += [_sheet(sheet) for sheet in report.sheets]
    parts += [_conditions(report.numbers), _about(report.about)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _summary(report: Report) -> str:
    head, *rows = report.rows()
    if not rows:
        return ""
    cells = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join(_row(row) for row in rows)
    return f'<div class="scroll"><table><tr>{cells}</tr>{body}</table></div>'


def _row(cells: tuple[str, ...]) -> str:
    kinds = ("", "", ' class="number"', "", "")
    return (
        "<tr>"
        + "".join(f"<td{kind}>{_text(cell)}</td>" for kind, cell in zip(kinds, cells, strict=True))
        + "</tr>"
    )


def _notes(report: Report) -> str:
    said = dict.fromkeys([*report.notes, *(n.found.note for n in report.numbers)])
    lines = [f'<li class="note">{_text(note)}</li>' for note in said if note]
    return f"<h2>What limits these numbers</h2><ul>{''.join(lines)}</ul>" if lines else ""


def _plots(report: Report) -> str:
    drawn = "".join(f'<div class="plot">{svg(plot)}</div>' for plot in report.plots)
    return f'<h2>Plots</h2><div class="plots">{drawn}</div>' if drawn else ""


def _sheet(sheet: Sheet) -> str:
    rows = []
    for caption, images in sheet.rows:
        shown = "".join(
            f"<figure>{_image(image)}<figcaption>{_text(name)}</figcaption></figure>"
            for name, image in zip(sheet.columns, images, strict=True)
        )
        rows.append(f'<div class="card"><p>{_text(caption)}</p><div>{shown}</div></div>')
    return f'<h2>{_text(sheet.title)}</h2><div class="sheet">{"".join(rows)}</div>'


def _image(image: Tensor) -> str:
    """A picture (3, H, W) uint8; small ones are shown larger, pixel by pixel."""
    data = BytesIO()
    from_bytes(image).save(data, "PNG")
    height, width = image.shape[-2:]
    scale = max(1, -(-_SHOWN // max(height, width)))
    coded = b64encode(data.getvalue()).decode()
    size = f'width="{width * scale}" height="{height * scale}"'
    return f'<img {size} alt="" src="data:image/png;base64,{coded}">'


def _conditions(numbers: list[Number]) -> str:
    """Everything that each kind of number was measured under, once."""
    kinds: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for one in numbers:
        under = one.under.to_dict()
        names = kinds.setdefault(json.dumps(under, sort_keys=True), ([], under))[0]
        names.append(f"{one.metric} ({one.of})")
    parts = []
    for names, under in kinds.values():
        rows = "".join(
            f"<tr><th>{_text(key.replace('_', ' '))}</th><td>{_text(value)}</td></tr>"
            for key, value in under.items()
        )
        parts.append(f"<p>{_text(', '.join(dict.fromkeys(names)))}</p><table>{rows}</table>")
    return f"<h2>What the numbers were measured under</h2>{''.join(parts)}" if parts else ""


def _about(about: dict[str, Any]) -> str:
    if not about:
        return ""
    text = json.dumps(about, indent=1, ensure_ascii=False, default=str)
    shown = f"<pre>{_text(text, lines=True)}</pre>"
    return f"<details><summary>Flags and versions</summary>{shown}</details>"


def _text(value: Any, lines: bool = False) -> str:
    said = str(value).encode("utf-8", "replace").decode()
    return escape("\n".join(map(printable, said.split("\n"))) if lines else printable(said))
