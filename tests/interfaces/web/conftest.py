"""The page of a tiny model, in a server of this machine, and a real browser."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.interfaces.server.conftest import Served, serving
from unclip.interfaces.server.app import application
from unclip.interfaces.server.desk import Desk
from unclip.pipeline.pipeline import Pipeline

pytest.importorskip("gradio", reason="gradio is not installed")
_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, _NAMES)), None)
PATIENCE = 120_000  # milliseconds, of machines that are busy


def with_page(desk: Desk) -> Any:
    """The application with the page on it."""
    from unclip.interfaces.web.mounting import mount

    app = application(desk)
    mount(app, desk)
    return app


@pytest.fixture(scope="package", autouse=True)
def _few_samples() -> Iterator[None]:
    """Components of a few images, in what the page says, too."""
    from unclip.interfaces.web.tabs import probe

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "SAMPLES", 16)
        yield


@pytest.fixture(scope="package")
def pipe(tiny_priors: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_priors, device="cpu", dtype="fp32")


@pytest.fixture(scope="package")
def served(pipe: Pipeline, tiny_priors: Path) -> Iterator[Served]:
    with serving(pipe, with_page, model=str(tiny_priors)) as one:
        yield one


@pytest.fixture(scope="module")  # its event loop must not outlive its tests
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("there is no chromium (Debian's package)")
    sandboxed = [] if not hasattr(os, "geteuid") or os.geteuid() else ["--no-sandbox"]
    with playwright.sync_playwright() as starting:
        one = starting.chromium.launch(executable_path=BROWSER, args=sandboxed)
        yield one
        one.close()


@dataclass
class Tab:
    """The page in a browser's tab: what it asked for, and what went wrong."""

    page: Any
    address: str
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> None:
        """Until the form is there, and says what the browser kept of it."""
        with self.page.expect_response("**/gradio_api/run/predict"):
            self.page.goto(f"{self.address}{path}")
        self.page.wait_for_selector("textarea >> visible=true")

    def choose(self, title: str) -> None:
        """Open one of the page's tabs."""
        self.page.get_by_role("tab", name=title, exact=True).click()
        self.page.wait_for_selector(f"button.make >> visible=true >> text={title}")

    def few(self) -> None:
        """As few steps as there can be."""
        if not self.field("Prior steps").is_visible():
            self.page.get_by_role("button", name="All knobs of sampling").click()
        for stage, steps in (("Prior", "1"), ("Decoder", "2"), ("Super res", "1")):
            self.field(f"{stage} steps").fill(steps)

    def field(self, label: str) -> Any:
        """What is typed into, by the words above it."""
        if label.startswith("number input"):
            return self.page.get_by_label(label, exact=True).locator("visible=true")
        words = self.page.get_by_test_id("block-info").filter(
            has_text=re.compile(rf"^\s*{re.escape(label)}\s*$")
        )
        one = self.page.locator("label", has=words).locator("input, textarea")
        return one.locator("visible=true").first

    def give(self, *files: Path) -> None:
        """Files to the open tab's image fields."""
        for number, file in enumerate(files):
            inputs = self.page.locator(".tabitem:visible input[type=file]")
            inputs.nth(0 if number == 0 else inputs.count() - 1).set_input_files(file)
            self.page.wait_for_function(
                "n => [...document.querySelectorAll('.tabitem img, .tabitem canvas')]"
                ".filter((one) => one.offsetParent).length >= n", arg=number + 1,
            )  # fmt: skip

    def start(self) -> None:
        self.page.locator("button.make >> visible=true").click()

    def made(self, command: str) -> list[Any]:
        """The images, once all are there that a command makes."""
        self.page.wait_for_selector(f"[data-command] >> text=unclip {command}")
        self.page.wait_for_function(
            "[...document.querySelectorAll('#shown .done img')].every((one) => one.naturalWidth)"
        )
        return list(self.page.query_selector_all("#shown .done img"))

    def wrong(self) -> str:
        """The sentence of what went wrong."""
        return str(self.page.inner_text("#shown [role=alert]")).strip()


@pytest.fixture(scope="module")
def opened(served: Served, browser: Any) -> Iterator[Tab]:
    """The page, for all tests: it takes a while to load."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    one = Tab(page, served.server.address)
    page.on("request", lambda request: one.asked.append(request.url))
    page.on("pageerror", lambda error: one.errors.append(str(error)))
    page.on(
        "console",
        lambda m: one.errors.append(f"{m.text} {m.location}") if m.type == "error" else None,
    )
    one.open()
    yield one
    context.close()


@pytest.fixture
def tab(opened: Tab) -> Iterator[Tab]:
    """The open page, which must ask nothing of anybody else, and log no error."""
    if not opened.page.url.startswith(opened.address):
        opened.open()
    yield opened
    errors, opened.errors[:] = opened.errors[:], []
    assert errors == []
    assert all(url.startswith((opened.address, "data:", "blob:")) for url in opened.asked)
