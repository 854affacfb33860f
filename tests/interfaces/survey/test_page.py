"""The page in a real browser: every question answered, by keys and by clicks; what people see."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unclip.interfaces.survey.server import SurveyServer

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, _NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium (Debian's package)")


@pytest.fixture
def page(server: SurveyServer) -> Iterator[Any]:
    """An open page, which must make no request elsewhere and log no error."""
    asked, errors = [], []
    with playwright.sync_playwright() as starting:
        sandboxed = [] if not hasattr(os, "geteuid") or os.geteuid() else ["--no-sandbox"]
        browser = starting.chromium.launch(executable_path=BROWSER, args=sandboxed)
        context = browser.new_context(viewport={"width": 1100, "height": 800})
        tab = context.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        tab.goto(server.address)
        _await_question(tab, 1)
        yield tab
        browser.close()
    assert errors == []
    assert all(url.startswith((server.address, "data:")) for url in asked)


def _await_question(page: Any, number: int) -> None:
    page.wait_for_function(
        "n => document.querySelector('#count').textContent.startsWith(`Question ${n} of`)"
        " && [...document.images].every((one) => one.complete && one.naturalWidth)",
        arg=number,
    )


def _save(page: Any, name: str) -> None:
    """A screenshot where somebody wants to look at them."""
    if folder := os.environ.get("UNCLIP_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / name)


def test_every_question_by_keys_and_clicks(server: SurveyServer, page: Any) -> None:
    order = server.survey.order
    asked = {
        "photorealism": "Which image looks more like a photo?",
        "caption": "Which image fits this caption better?",
        "diversity": "Which set of images for this caption is more varied?",
    }
    keys = ("ArrowLeft", "2", "ArrowDown")
    chosen = ("first", "second", "unsure")
    for number, seated in enumerate(order, 1):
        _await_question(page, number)
        question = seated.question
        assert page.inner_text("h1 >> visible=true") == asked[question.kind]
        if question.kind == "photorealism":
            assert page.is_hidden("blockquote")
        else:
            assert page.inner_text("blockquote") == question.caption  # as text, however hostile
        alts = [image.get_attribute("alt") for image in page.query_selector_all("img")]
        assert len(alts) == (32 if question.kind == "diversity" else 2)
        assert len(set(alts)) == len(alts)
        assert all(alts)
        _save(page, f"{question.kind}.png")
        if number <= 3:
            page.keyboard.press(keys[number - 1])
        else:
            page.click(f"[data-choice={chosen[number % 3]}]")
    page.wait_for_selector("#end >> visible=true")
    assert page.inner_text("#count") == "6 of 6 answered"
    _save(page, "end.png")
    given = server.survey.answers.read()
    assert [one.question for one in given] == [one.question.key for one in order]
    expected = [*chosen, *(chosen[number % 3] for number in (4, 5, 6))]
    assert [one.choice for one in given] == expected
    assert [one.preferred for one in given] == [
        seated.preferred(choice) for seated, choice in zip(order, expected, strict=True)
    ]
    assert all(0 <= one.seconds < 60 for one in given)


def test_a_reload_keeps_the_place_and_back_changes_an_answer(
    server: SurveyServer, page: Any
) -> None:
    page.keyboard.press("1")
    _await_question(page, 2)
    page.reload()
    _await_question(page, 2)
    page.keyboard.press("Backspace")
    _await_question(page, 1)
    assert page.get_attribute("[data-choice=first]", "aria-pressed") == "true"
    page.reload()
    _await_question(page, 1)  # also where it was gone back to
    page.click("#second img")  # an image is as good as its button
    _await_question(page, 2)
    assert [one.choice for one in server.survey.answers.read()] == ["second"]
    page.goto(server.address)
    _await_question(page, 2)


def test_two_tabs_and_a_lost_reply(server: SurveyServer, page: Any) -> None:
    other = page.context.new_page()
    other.goto(server.address)
    _await_question(other, 1)
    other.keyboard.press("0")
    _await_question(other, 2)
    page.keyboard.press("1")  # the same question, still open here
    _await_question(page, 2)
    assert [one.choice for one in server.survey.answers.read()] == ["first"]
    lose = True

    def reply(route: Any) -> None:
        nonlocal lose
        if lose:
            lose = False
            route.fetch()  # the answer arrives, and its reply does not
            route.fulfill(status=500, json={"error": "lost"})
        else:
            route.continue_()

    other.route("**/answer", reply)
    other.keyboard.press("2")
    other.wait_for_selector("#error >> visible=true")
    assert "could not be kept" in other.inner_text("#error")
    other.keyboard.press("2")
    _await_question(other, 3)
    assert len(server.survey.answers.read(every=True)) == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(server: SurveyServer, page: Any, scheme: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)
    for number, seated in enumerate(server.survey.order[:3], 1):
        _await_question(page, number)
        _save(page, f"phone-{scheme}-{seated.question.kind}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for name in ("first", "unsure", "second"):
            box = page.locator(f"[data-choice={name}]").bounding_box()
            assert box["height"] >= 44  # a thumb
            assert box["y"] + box["height"] <= 740  # in sight
        page.click("[data-choice=unsure]")
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(23, 24, 26)")
