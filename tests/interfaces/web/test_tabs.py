"""What each tab makes of its form, without a browser; and what it refuses."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.interfaces.server.conftest import Held, Served, picture
from unclip.interfaces.web.jobs import Job
from unclip.interfaces.web.knobs import settings_of
from unclip.interfaces.web.page import Page
from unclip.interfaces.web.stage import drawn
from unclip.interfaces.web.tabs.form import Given, Memory
from unclip.interfaces.web.tabs.table import TABS

FEW = {
    "prior_num_inference_steps": "1", "decoder_num_inference_steps": "2",
    "super_res_num_inference_steps": "1",
}  # fmt: skip
STROKES = "[[0.1, 0.2, 0.2, 0.4, 0.4]]"
FORMS: dict[str, tuple[dict[str, Any], int]] = {
    "generate": ({"prompt": "a star", "n": 2}, 2),
    "vary": ({"image": "IMAGE", "n": 2}, 2),
    "blend": ({"first": "IMAGE", "second": "OTHER", "frames": 3, "invert": False, "steps": 5}, 3),
    "edit": (
        {"image": "IMAGE", "from": "", "to": "a star", "theta": 0.5, "frames": 2, "invert": True,
         "steps": 5}, 2,
    ),
    "inpaint": ({"image": "IMAGE", "strokes": STROKES, "prompt": "a star", "n": 1}, 1),
    "invert": ({"image": "IMAGE", "steps": 5}, 1),
    "upscale": ({"image": "IMAGE", "longer": ""}, 1),
    "probe": ({"image": "IMAGE", "components": "2 4"}, 2),
    "compare": (
        {"prompt": "a star", "n": 1, "left_model": "tiny", "left_steps": "default",
         "left_prior": "", "right_model": "tiny", "right_steps": "fast", "right_prior": ""}, 2,
    ),
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Images by the words that stand for them in `FORMS`."""
    picture(40).save(tmp_path / "one.png")
    picture(40, 1).save(tmp_path / "another one.png")
    picture(20).save(tmp_path / "mask.png")
    names = {"IMAGE": "one.png", "OTHER": "another one.png", "MASK": "mask.png"}
    return {word: str(tmp_path / name) for word, name in names.items()}


def filled(value: Any, files: dict[str, str]) -> Any:
    """A form's value with the files' names in it."""
    if isinstance(value, dict):
        return {key: filled(one, files) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, files) for one in value]
    return files.get(value, value) if isinstance(value, str) else value


def given(served: Served, name: str, values: dict[str, Any]) -> Given:
    tab = next(tab for tab in TABS if tab.name == name)
    settings = settings_of(FEW, tab.stages, served.desk.pipe.sizes)
    return Given(served.desk, values, settings, 7, "req_1", Memory())


def done(served: Served, name: str, values: dict[str, Any]) -> Job:
    """A form's work, done."""
    tab = next(tab for tab in TABS if tab.name == name)
    job = Job(served.desk, "somebody", tab.work(given(served, name, values)))

    async def watched() -> None:
        async for _ in job.watched():
            assert drawn(job)

    asyncio.run(watched())
    return job


@pytest.mark.parametrize("name", FORMS)
def test_a_form_becomes_images(served: Served, files: dict[str, str], name: str) -> None:
    values, count = FORMS[name]
    job = done(served, name, filled(values, files))
    assert job.error == ""
    assert [cell.image is not None for cell in job.cells] == [True] * count
    assert job.done == job.work.steps
    shown = drawn(job)
    assert shown.count('class="cell done"') == count
    assert shown.count("<img") == shown.count("alt=")
    assert 'alt=""' not in shown


def test_two_files_of_one_name_are_told_apart(served: Served, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files = [tmp_path / "one.png", tmp_path / "other" / "one.png"]
    for number, file in enumerate(files):
        picture(40, number).save(file)
    blend = filled(FORMS["blend"][0], {"IMAGE": str(files[0]), "OTHER": str(files[1])})
    work = TABS[2].work(given(served, "blend", blend))
    assert work.command.startswith("unclip blend one.png one-2.png ")
    assert "Image.open('one-2.png')" in work.python
    inpaint = {
        **FORMS["inpaint"][0],
        "strokes": "[]",
        "image": str(files[0]),
        "mask": str(files[1]),
    }
    work = TABS[4].work(given(served, "inpaint", inpaint))
    assert work.command.startswith("unclip inpaint one.png one-2.png ")
    same = TABS[2].work(given(served, "blend", {**blend, "second": str(files[0])}))
    assert same.command.startswith("unclip blend one.png one.png ")


def test_of_two_that_begin_at_once_the_later_stays(served: Served, tmp_path: Path) -> None:
    page, desk = Page(served.desk, tmp_path), served.desk
    scope = {"state": {"id": "req_1", "client": "somebody"}}
    request: Any = SimpleNamespace(session_hash="one", request=SimpleNamespace(scope=scope))

    async def shown() -> str:
        steps = [step async for step in page._made(TABS[0], FORMS["generate"][0], FEW, request)]
        return str(steps[-1][0])

    async def both() -> list[str]:
        tasks = [asyncio.ensure_future(shown()) for _ in range(2)]
        await asyncio.wait(tasks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        held.go()
        return await asyncio.gather(*tasks)

    inner = desk.scheduler.engine
    desk.scheduler.engine = held = Held(desk)
    try:
        ends = asyncio.run(both())
    finally:
        desk.scheduler.engine = inner
    assert sorted("Cancelled" in html for html in ends) == [False, True]
    assert page.running == {}


def test_every_tab_is_tried() -> None:
    assert [tab.name for tab in TABS] == [*FORMS]


@pytest.mark.parametrize(
    ("name", "wrong", "sentence"),
    [
        ("generate", {"prompt": " "}, "say what the images should show"),
        ("generate", {"n": 11}, "11 images were asked for"),
        ("generate", {"n": 1.5}, "a whole number of images"),
        ("vary", {"image": None}, "give an image first"),
        ("blend", {"second": None}, "give a second image first"),
        ("edit", {"to": ""}, "say what the image should become"),
        ("edit", {"theta": None}, "θ is a number"),
        ("edit", {"steps": 2.5}, "steps of the inversion is 2.5"),
        ("inpaint", {"image": None}, "give an image first"),
        ("inpaint", {"strokes": "[]"}, "brush over what is to be repainted"),
        ("inpaint", {"strokes": "[[0.1, 3, 3]]"}, "black everywhere"),
        ("inpaint", {"strokes": "[[0.1]]"}, "what was brushed is damaged"),
        ("inpaint", {"strokes": "[[1e400, 0, 0]]"}, "what was brushed is damaged"),
        ("inpaint", {"strokes": "{"}, "what was brushed is damaged"),
        ("inpaint", {"strokes": "5"}, "what was brushed is damaged"),
        ("inpaint", {"boxes": "0,0,5"}, "not x0,y0,x1,y1"),
        ("inpaint", {"boxes": "0,0,500,5"}, "outside the image"),
        ("inpaint", {"mask": "MASK"}, "make them equal"),
        ("upscale", {"longer": "8"}, "does not enlarge"),
        ("upscale", {"longer": "wide"}, "whole number"),
        ("probe", {"components": "2 x"}, "numbers of components"),
        ("compare", {"right_steps": "default"}, "the same"),
        ("compare", {"right_model": "/etc"}, "not one of those"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(
    served: Served, files: dict[str, str], name: str, wrong: dict[str, Any], sentence: str
) -> None:
    values = filled({**FORMS[name][0], **wrong}, files)
    tab = next(tab for tab in TABS if tab.name == name)
    with pytest.raises(ValueError, match=sentence):
        tab.work(given(served, name, values))
