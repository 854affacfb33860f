"""The page: tabs at the left, at the right what they make; what happens when something is done.

Nothing of a person's is kept here but the work that runs: the form lies in the browser, images for
an hour where those of the API lie.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from unclip import __version__
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.web.jobs import Job, said
from unclip.interfaces.web.knobs import knob_fields, settings_of
from unclip.interfaces.web.look import CSS, HEAD, theme
from unclip.interfaces.web.notes import Notes, notes_of
from unclip.interfaces.web.stage import drawn, idle, refused, told
from unclip.interfaces.web.tabs.form import Given, Memory, Tab, file_name
from unclip.interfaces.web.tabs.table import TABS

_USE = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-use]');
  if (button) trigger('use', {...button.dataset});
});
"""
_SAVE = "(...values) => [Object.fromEntries({names}.map((name, k) => [name, values[k]]))]"


class Page:
    """The page of a desk, before it is served.

    Args:
        folder: where files that people give lie while they are used.
    """

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.desk, self.folder, self.memory = desk, folder, Memory()
        self.running: dict[str, Job] = {}
        self.fields: dict[str, Any] = {}
        """All fields by name: those of tabs as "tab.field", the others by their own."""
        with gr.Blocks(
            title="unclip", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
        ) as self.blocks:
            self._build()
            self._listen()
        self.blocks.queue(default_concurrency_limit=None, api_open=False)

    # ---- what is on it ---------------------------------------------------------------------------

    def _build(self) -> None:
        with gr.Row(elem_id="head"):
            gr.HTML(_header(self.desk), js_on_load=None)
            self.notes = gr.UploadButton(
                "Open a PNG's notes", file_types=[".png"], elem_id="notes", size="sm", scale=0,
                min_width=150,
            )  # fmt: skip
            self.dark = gr.Button("Light or dark", size="sm", elem_id="dark", scale=0)
        with gr.Column(elem_id="bench"):
            self.buttons: dict[str, Any] = {}
            with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as self.tabs:
                for tab in TABS:
                    self._tab(tab)
            with gr.Column(elem_id="settings"):
                self._settings()
            with gr.Column(elem_id="stage"):
                self.cancel = gr.Button(
                    "Cancel", visible=False, elem_id="cancel", size="sm", variant="stop"
                )
                self.shown = gr.HTML(idle(), js_on_load=_USE, elem_id="shown")

    def _tab(self, tab: Tab) -> None:
        with gr.Tab(tab.title, id=tab.name):
            gr.Markdown(tab.what, elem_classes="what")
            for name, one in tab.form(self.desk).items():
                self.fields[f"{tab.name}.{name}"] = one
            self.buttons[tab.name] = gr.Button(
                tab.button, variant="primary", elem_classes="make", size="lg"
            )

    def _settings(self) -> None:
        with gr.Row():
            self.fields["seed"] = gr.Textbox(
                "0", label="Seed", max_lines=1, scale=2, min_width=100,
                info="Of the first image; the others count on.",
            )  # fmt: skip
            self.dice = gr.Button("New seed", size="sm", elem_id="dice", scale=1, min_width=90)
        first, others = knob_fields(self.desk)
        self.fields |= first | others
        self.knobs = [*first, *others]

    # ---- what happens ----------------------------------------------------------------------------

    def _listen(self) -> None:
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        for tab in TABS:
            self._start(tab, quiet)
        self.cancel.click(self._stop, queue=False, **quiet)
        self.blocks.unload(self._stop)
        self.dice.click(
            None, None, self.fields["seed"], js="() => [String(Math.floor(Math.random() * 2**32))]",
            **quiet,
        )  # fmt: skip
        self.dark.click(None, js="() => window.unclipDark()", **quiet)
        everything = list(self.fields.values())
        self.notes.upload(
            self._read, [self.notes], [self.tabs, self.shown, *everything], queue=False, **quiet
        )
        self.shown.use(
            self._use, {*self._pictures().values()}, [self.tabs, *self._pictures().values()],
            queue=False, preprocess=False, **quiet,
        )  # fmt: skip
        self._remember(quiet)

    def _start(self, tab: Tab, quiet: Mapping[str, Any]) -> None:
        own = {
            name.removeprefix(f"{tab.name}."): one
            for name, one in self.fields.items()
            if name.startswith(f"{tab.name}.")
        }
        shared = {name: self.fields[name] for name in ("seed", *self.knobs)}

        async def make(data: dict[Any, Any], request: gr.Request) -> AsyncIterator[Any]:
            values = {name: _plain(data[one]) for name, one in own.items()}
            knobs = {name: data[one] for name, one in shared.items()}  # a field may be named as one
            async for step in self._made(tab, values, knobs, request):
                yield step

        async def again(data: dict[Any, Any], request: gr.Request) -> AsyncIterator[Any]:
            if all(data[own[name]] for name in tab.images):  # else it is not begun yet
                async for step in make(data, request):
                    yield step

        to = {
            "inputs": {*own.values(), *shared.values()}, "outputs": [self.shown, self.cancel],
            "preprocess": False,  # images are opened where all are, and what is none is a sentence
        }  # fmt: skip
        self.buttons[tab.name].click(make, **to, **quiet)
        for name in tab.submit:
            own[name].submit(make, **to, **quiet)
        for name in tab.live:
            own[name].release(again, **to, trigger_mode="always_last", **quiet)

    async def _made(
        self, tab: Tab, values: Mapping[str, Any], knobs: Mapping[str, Any], request: gr.Request
    ) -> AsyncIterator[Any]:
        """Do what a form asks for, and say how far it is: the stage, and the button to cancel."""
        state, session = request.request.scope["state"], str(request.session_hash)
        if (before := self.running.get(session)) is not None:
            before.cancel()
        try:
            sizes = self.desk.pipe.sizes
            settings = settings_of(knobs, tab.stages, sizes)
            given = Given(
                self.desk, values, settings, _seed(knobs.get("seed")), state["id"], self.memory
            )
            work = await asyncio.to_thread(tab.work, given)
        except Exception as error:
            yield refused(said(error)), gr.update(visible=False)
            return
        if (other := self.running.get(session)) is not None:  # asked for while this was planned
            other.cancel()
        job = self.running[session] = Job(self.desk, state["client"], work)
        try:
            async for _ in job.watched():
                html = await asyncio.to_thread(drawn, job)
                yield html, gr.update(visible=not job.over)
        finally:
            job.cancel()
            if self.running.get(session) is job:
                del self.running[session]

    async def _stop(self, request: gr.Request) -> None:
        """Cancel what this page has running, as it was asked to, or is gone."""
        if (job := self.running.get(str(request.session_hash))) is not None:
            job.cancel()

    def _read(self, file: Any) -> list[Any]:
        """Fill the form with what a PNG's notes say."""
        try:
            notes: Notes = notes_of(Path(str(file)), self.desk)
        except ValueError as error:
            return [gr.skip(), refused(said(error)), *(gr.skip() for _ in self.fields)]
        values = (
            gr.update(value=notes.values[name]) if name in notes.values else gr.skip()
            for name in self.fields
        )
        return [gr.update(selected=notes.tab), told(notes.said), *values]

    def _pictures(self) -> dict[str, Any]:
        """Fields that images can be sent to, by name."""
        names = [f"{tab.name}.{name}" for tab in TABS for name in tab.images]
        return {name: self.fields[name] for name in names}

    def _use(self, data: dict[Any, Any], event: gr.EventData) -> list[Any]:
        """Give an image that was made to a tab."""
        pictures, asked = self._pictures(), event._data
        tab = next((tab for tab in TABS if tab.name == asked.get("use")), None)
        try:
            file, _ = self.desk.kept.get(str(asked.get("image")))
        except Exception:
            return [gr.skip() for _ in range(len(pictures) + 1)]
        if tab is None or not tab.images:
            return [gr.skip() for _ in range(len(pictures) + 1)]
        names = [f"{tab.name}.{name}" for name in tab.images]
        free = next((name for name in names if not data[pictures[name]]), names[-1])
        folder = self.folder / str(asked["image"]).partition(".")[0]
        folder.mkdir(exist_ok=True)
        path = folder / file_name(str(asked.get("name") or "image.png"))
        path.write_bytes(file)
        given = [gr.update(value=str(path)) if name == free else gr.skip() for name in pictures]
        return [gr.update(selected=tab.name), *given]

    def _remember(self, quiet: Mapping[str, Any]) -> None:
        """Have the browser keep the form, and give it back when the page is loaded again."""
        form = gr.BrowserState({}, storage_key="unclip-form", secret="unclip")
        kept = {name: one for name, one in self.fields.items() if hasattr(one, "change")}
        gr.on(
            [one.change for one in kept.values()], None, [*kept.values()], form,
            js=_SAVE.replace("{names}", json.dumps([*kept])), **quiet,
        )  # fmt: skip

        def restored(values: Any) -> list[Any]:
            values = values if isinstance(values, dict) else {}
            return [self._valid(name, values.get(name)) for name in kept]

        self.blocks.load(restored, form, [*kept.values()], queue=False, **quiet)

    def _valid(self, name: str, value: Any) -> Any:
        """A field's value that a browser kept; nothing if it is none any more."""
        if isinstance(value, dict):  # a file
            path = Path(str(value.get("path", "")))
            inside = path.is_absolute() and path.resolve().is_relative_to(self.folder.resolve())
            return gr.update(value=str(path)) if inside and path.is_file() else gr.skip()
        plain = isinstance(value, str | int | float | bool) and value != ""
        choices = [one[1] for one in getattr(self.fields[name], "choices", None) or ()]
        fits = plain and (not choices or value in choices)  # another model may have been served
        return gr.update(value=value) if fits else gr.skip()


def _plain(value: Any) -> Any:
    """A field's value as the browser sends it; of a file, its path, which gradio has checked."""
    return value.get("path") if isinstance(value, dict) else value


def _seed(value: Any) -> int:
    """A seed that was typed."""
    text = str(value if value is not None else "").strip() or "0"
    try:
        seed = int(text)
    except ValueError:
        raise ValueError("the seed is a whole number") from None
    if not -(2**63) <= seed < 2**64:
        raise ValueError("the seed must be from -2^63 to 2^64 - 1")
    return seed


def _header(desk: Desk) -> str:
    sizes = ", ".join(f"{size} px" for size in desk.pipe.sizes)
    return (
        '<header><h1><span aria-hidden="true">●■▲</span> unclip</h1>'
        f"<p>{escape(desk.name)} · {escape(sizes)} · {escape(str(desk.pipe.device))} · "
        f'version {__version__} · <a href="docs">the API</a></p></header>'
    )


def look() -> dict[str, Any]:
    """How it looks, as gradio is told of it."""
    return {"theme": theme(), "css": CSS, "head": HEAD}
