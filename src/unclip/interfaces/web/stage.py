"""The page's right side as HTML: how far the work is, its images, and what does the same."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

from PIL import Image

from unclip.checks import many
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.web.jobs import Cell, Download, Job

USES = ("vary", "blend", "edit", "inpaint", "invert", "upscale", "probe")
"""Tabs that an image can be sent to."""
_LARGEST = 512  # pixels of a side of an image that was given, as it is shown again


def idle(said: str = "") -> str:
    """Before there is anything."""
    return (
        '<div class="empty"><div class="blobs" aria-hidden="true"><i></i><i></i><i></i></div>'
        f"<p>{said or 'What you make appears here, from the first step on.'}</p>"
        "<p class=hint>Drop a PNG that unclip made anywhere on the page, and its notes fill the "
        "form.</p></div>"
    )


def refused(sentence: str) -> str:
    """What could not be begun, in a sentence."""
    return f'<p class="told wrong" role="alert">{escape(sentence)}</p>'


def told(sentence: str) -> str:
    """Something to know."""
    return f'<p class="told" role="status">{escape(sentence)}</p>'


def drawn(job: Job) -> str:
    """A job as it is now."""
    work = job.work
    parts = [_status(job), *map(told, work.notices)]
    if job.error:
        parts.append(refused(job.error))
    made = [cell for cell in job.cells if cell.image is not None]
    if work.frames and job.over and len(made) > 1:
        parts.append(_frames(job, made))
    cells = [_given(label, image) for label, image in work.shown]
    cells += [_cell(job, number) for number in range(len(job.cells))]
    if not job.error or made:
        columns = f' style="--columns: {work.columns}"' if work.columns else ""
        kind = "table" if work.columns else f"of-{min(len(cells), 5)}"
        parts.append(f'<div class="sheet {kind}"{columns}>{"".join(cells)}</div>')
    parts += [_download(job, one) for one in job.downloads]
    parts += [f'<p class="fact">{escape(fact)}</p>' for fact in job.facts]
    if job.over and not job.error:
        parts.append(_same(work.command, work.python))
    return "".join(parts)


def _status(job: Job) -> str:
    if job.over:
        count = sum(cell.image is not None for cell in job.cells)
        said = f"{many(count, 'images')} in {job.seconds:.1f} s"
        return f'<p class="status" role="status">{said}</p>' if count else ""
    if job.waits:
        said = "In the queue" if job.desk.scheduler.running > 0 else "Starting"
        return f'<p class="status" role="status">{said} …</p><progress aria-label="Progress">' \
               "</progress>"  # fmt: skip
    percent = round(100 * job.share)
    return (
        f'<p class="status" role="status">Making … {percent} %</p>'
        f'<progress max="100" value="{percent}" aria-label="Progress"></progress>'
    )


def _cell(job: Job, number: int) -> str:
    cell, alt = job.cells[number], job.work.alts[number]
    label = f"<span>{escape(cell.label)}</span>"
    if cell.image is not None:
        width, height = cell.image.size
        name = escape(f"{job.work.names[number]}.png")
        kept = escape(cell.address.rpartition("/")[2])
        uses = "".join(
            f'<button type="button" data-use="{use}" data-image="{kept}" '
            f'data-name="{name}">{use}</button>'
            for use in USES
        )
        return (
            f'<figure class="cell done"><img src="{escape(cell.address)}" alt="{escape(alt)}" '
            f'width="{width}" height="{height}"><figcaption>{label}'
            f'<a href="{escape(cell.address)}" download="{name}" '
            f'aria-label="Save {escape(cell.label)} as PNG">Save</a>'
            f"<details><summary aria-label='Use {escape(cell.label)} in another tab'>Use"
            f"</summary><div>{uses}</div></details></figcaption></figure>"
        )
    if cell.glimpse is not None and not job.over:
        image = _data_uri(job.desk, cell)
        alt = f"on the way: {alt}"
        return f'<figure class="cell coming"><img src="{image}" alt="{escape(alt)}">' \
               f"<figcaption>{label}</figcaption></figure>"  # fmt: skip
    return f'<figure class="cell waiting"><div></div><figcaption>{label}</figcaption></figure>'


def _data_uri(desk: Desk, cell: Cell) -> str:
    """An image on the way, marked as all that the server sends."""
    assert cell.glimpse is not None
    marked, _ = desk.provenance.marked(cell.glimpse)
    return _encoded(marked)


def _encoded(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _given(label: str, image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((_LARGEST, _LARGEST))
    return (
        f'<figure class="cell given"><img src="{_encoded(small)}" alt="{escape(label)}" '
        f'width="{small.width}" height="{small.height}">'
        f"<figcaption><span>{escape(label)}</span></figcaption></figure>"
    )


def _frames(job: Job, made: Sequence[Cell]) -> str:
    """All frames one upon the other, and a slider that shows one of them."""
    middle = len(made) // 2
    images = "".join(
        f'<img src="{escape(cell.address)}" alt="{escape(alt)}"{"" if k == middle else " hidden"}>'
        for k, (cell, alt) in enumerate(zip(made, job.work.alts, strict=True))
    )
    labels = escape("|".join(cell.label for cell in made))
    return (
        f'<div class="frames"><div class="screen">{images}</div><label>'
        f'<input type="range" min="0" max="{len(made) - 1}" value="{middle}" data-frames '
        f'data-labels="{labels}" aria-label="Frame"><output>{escape(made[middle].label)}</output>'
        "</label></div>"
    )


def _download(job: Job, one: Download) -> str:
    name = escape(one.name)
    if one.picture:
        address = escape(job.kept(one.data, one.kind))
        return (
            f'<figure class="file"><img src="{address}" alt="{escape(one.picture)}">'
            f'<figcaption><span>{name}</span><a href="{address}" download="{name}">Save</a>'
            "</figcaption></figure>"
        )
    data = base64.b64encode(one.data).decode()
    return f'<p class="file"><a href="data:{one.kind};base64,{data}" download="{name}">' \
           f"Save {name}</a> ({len(one.data):,} bytes)</p>"  # fmt: skip


def _same(command: str, python: str) -> str:
    blocks = "".join(
        f'<div class="code"><h3>{title}</h3><button type="button" data-copy '
        f'aria-label="Copy the {title.lower()}">Copy</button>'
        f'<pre tabindex="0" data-{title.lower()}>{escape(text.strip())}</pre></div>'
        for title, text in (("Command", command), ("Python", python))
    )
    return f'<details class="same" open><summary>The same without this page</summary>{blocks}' \
           "</details>"  # fmt: skip
