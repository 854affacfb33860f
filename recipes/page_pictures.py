"""Make the pictures of docs/web.md anew, with the bundled model: `make page-pictures`.

python recipes/page_pictures.py

Run from the repository's root. Starts the server at a free port of this machine, opens the page in
Debian's chromium by playwright, and does what a person would: a sheet of a caption, a blend, an
edit, a brush, what a phone shows.
"""

import asyncio
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from unclip.interfaces.server.app import application
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.serving import Server, listening
from unclip.interfaces.web.mounting import mount
from unclip.pipeline.pipeline import Pipeline

IMAGES = Path("docs/images")
MOST_BYTES = 150_000  # of a picture
PHONE = "web-phone.jpg"
QUALITY = 80  # of JPEG
CAPTIONS = ("a red star on a green background", "a yellow crescent at night")
_PATIENCE = 300_000  # milliseconds


@contextmanager
def served() -> Iterator[str]:
    """The address of the page of the bundled model."""
    pipe = Pipeline.from_pretrained(dtype="fp32")
    desk = Desk(pipe)
    app = application(desk)
    mount(app, desk)
    server = Server(desk, listening("127.0.0.1", 0), app=app)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield server.address
    finally:
        server.stop()
        thread.join()


def ready(page: Any, address: str) -> None:
    """Open the page, and wait for its first form."""
    page.set_default_timeout(_PATIENCE)
    page.goto(address)
    page.wait_for_selector("textarea >> visible=true")
    page.evaluate("document.fonts.ready")


def choose(page: Any, title: str) -> None:
    page.get_by_role("tab", name=title, exact=True).click()
    page.wait_for_selector(f"button.make >> visible=true >> text={title}")


def field(page: Any, label: str) -> Any:
    """What is typed into, by the words above it."""
    words = page.get_by_test_id("block-info").filter(has_text=re.compile(rf"^\s*{label}\s*$"))
    return page.locator("label", has=words).locator("input, textarea").locator("visible=true")


def generate(page: Any, caption: str, seed: int) -> None:
    """A sheet of four."""
    choose(page, "Generate")
    field(page, "Caption").fill(caption)
    field(page, "Seed").fill(str(seed))
    start(page)
    finished(page)


def start(page: Any) -> None:
    page.locator("button.make >> visible=true").click()


def finished(page: Any) -> None:
    """Wait until all is made and shown."""
    page.wait_for_selector("#shown progress")
    page.wait_for_selector("details.same")
    page.wait_for_function(
        "[...document.querySelectorAll('#shown img')].every((one) => one.complete)"
    )
    page.wait_for_timeout(500)


def saved(page: Any, folder: Path, number: int = 0) -> Path:
    """One of the images that were made, as a person would save it."""
    with page.expect_download() as saving:
        page.locator("#shown figcaption a").nth(number).click()
    file = folder / saving.value.suggested_filename
    saving.value.save_as(file)
    return file


def give(page: Any, number: int, file: Path) -> None:
    """A file to one of the open tab's image fields."""
    page.locator(".tabitem:visible input[type=file]").nth(number).set_input_files(file)
    page.wait_for_timeout(1500)


def shoot(page: Any, name: str) -> None:
    """Write a screenshot into docs/images/."""
    page.mouse.move(0, 0)
    if name != PHONE:
        page.evaluate("scrollTo(0, 0)")
    shot = Image.open(BytesIO(page.screenshot())).convert("RGB")
    file = IMAGES / name
    shot.save(file, quality=QUALITY, subsampling=0, optimize=True)
    if (size := file.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{file} has {size:,} bytes; {MOST_BYTES:,} are the limit")
    print(file, size)


def light(browser: Any, address: str, folder: Path) -> list[Path]:
    """A sheet while it is made and when it is there; images for the other pictures."""
    page = browser.new_context(
        viewport={"width": 1280, "height": 860}, color_scheme="light", accept_downloads=True
    ).new_page()
    ready(page, address)
    generate(page, CAPTIONS[0], 11)
    shoot(page, "web-generate.jpg")
    star = saved(page, folder)
    generate(page, CAPTIONS[1], 3)
    moon = saved(page, folder)
    choose(page, "Edit")
    give(page, 0, star)
    field(page, "What it is now").fill(CAPTIONS[0])
    field(page, "What it should become").fill("a red star at night")
    start(page)
    finished(page)
    shoot(page, "web-edit.jpg")
    brush(page, star)
    return [star, moon]


def brush(page: Any, star: Path) -> None:
    """A part of an image repainted."""
    choose(page, "Inpaint")
    give(page, 0, star)
    field(page, "What the image shows then").fill("a white ring on a green background")
    canvas = page.locator(".brush canvas >> visible=true")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for share in (0.3, 0.4, 0.5, 0.6, 0.7):
        page.mouse.move(box["x"] + 0.05 * box["width"], box["y"] + share * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + share * box["height"], steps=8)
        page.mouse.up()
    start(page)
    finished(page)
    shoot(page, "web-inpaint.jpg")


def dark(browser: Any, address: str, files: list[Path]) -> None:
    """A blend, as it looks at night."""
    page = browser.new_context(
        viewport={"width": 1280, "height": 1000}, color_scheme="dark"
    ).new_page()
    ready(page, address)
    choose(page, "Blend")
    for number in (0, -1):
        give(page, number, files[number])
    start(page)
    finished(page)
    shoot(page, "web-blend.jpg")


def phone(browser: Any, address: str) -> None:
    """What a phone shows, on the way."""
    page = browser.new_context(
        viewport={"width": 390, "height": 844}, color_scheme="light", has_touch=True
    ).new_page()
    ready(page, address)
    generate(page, CAPTIONS[1], 3)
    page.locator("#stage").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#stage').scrollIntoView()")
    page.wait_for_timeout(300)
    shoot(page, PHONE)


def make() -> None:
    """All of them."""
    browser_file = shutil.which("chromium")
    if browser_file is None:
        raise ValueError("there is no chromium: install Debian's package")
    with served() as address, tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        sandboxed = [] if not hasattr(os, "geteuid") or os.geteuid() else ["--no-sandbox"]
        browser = play.chromium.launch(executable_path=browser_file, args=sandboxed)
        files = light(browser, address, Path(folder))
        dark(browser, address, files)
        phone(browser, address)
        browser.close()


if __name__ == "__main__":
    make()
