"""The page in a real browser: every tab makes an image, which its command and its program make
again; what goes wrong; what a reload keeps; phones, keys, light and dark."""

import contextlib
import io
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.interfaces.server.conftest import Held, Served, picture, serving, until
from tests.interfaces.web.conftest import PATIENCE, Tab, with_page
from unclip.interfaces.cli import main
from unclip.interfaces.server.keys import Keys
from unclip.outputs.images import read_info
from unclip.outputs.latents import Latents
from unclip.pipeline.pipeline import Pipeline

COMMANDS = {"Compare": "generate"}
PROMPT = 'a red star, "5 o\'clock"'


def _save(tab: Tab, name: str) -> None:
    """A screenshot where somebody wants to look at them."""
    if folder := os.environ.get("UNCLIP_SCREENSHOTS"):
        tab.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two pictures in the folder that commands run in."""
    files = [tmp_path / "one.png", tmp_path / "another one.png"]
    for number, file in enumerate(files):
        picture(40, number).save(file)
    return files


def fetched(served: Served, images: list[Any]) -> list[Image.Image]:
    """The files that people would save."""
    return [
        Image.open(io.BytesIO(served.http.get(f"/{image.get_attribute('src')}").content))
        for image in images
    ]


def check_same(tab: Tab, served: Served, tmp_path: Path, command: str, count: int) -> list[Any]:
    """That what the page says does the same makes the same images, bit for bit."""
    shown = tab.made(command)
    made = [image.tobytes() for image in fetched(served, shown)]
    assert len(made) == count
    alts = [one.get_attribute("alt") for one in tab.page.query_selector_all("#shown img")]
    assert all(alts)
    with contextlib.chdir(tmp_path):
        for line in tab.page.inner_text("[data-command]").splitlines():
            name, *words = shlex.split(line)
            assert name == "unclip"
            assert main(words) == 0
        written = sorted((tmp_path / "out").glob("*.png"), key=lambda file: file.stat().st_mtime_ns)
        assert [Image.open(file).tobytes() for file in written] == made
        exec(compile(tab.page.inner_text("[data-python]"), "program", "exec"), {})
        saved = tmp_path.glob("*[0-9].png")
        assert sorted(Image.open(file).tobytes() for file in saved) == sorted(made)
    return shown


def test_a_caption_becomes_a_sheet(tab: Tab, served: Served, tmp_path: Path) -> None:
    tab.choose("Generate")
    tab.few()
    tab.field("Caption").fill(PROMPT)
    tab.field("Seed").fill("7")
    tab.field("number input for Images").fill("2")
    tab.start()
    shown = check_same(tab, served, tmp_path, "generate", 2)
    _save(tab, "generate")
    assert [one.get_attribute("alt") for one in shown] == [f"{PROMPT}, seed {k}" for k in (7, 8)]
    [first, _] = fetched(served, shown)
    file = tmp_path / "saved.png"
    file.write_bytes(served.http.get(f"/{shown[0].get_attribute('src')}").content)
    assert read_info(file)["prompt"] == PROMPT
    assert first.size == (32, 32)
    _read_back(tab, file)


def _read_back(tab: Tab, file: Path) -> None:
    """The notes of a PNG that is dropped on the page fill a form that has forgotten everything."""
    tab.page.evaluate("localStorage.clear()")
    tab.open()
    assert tab.field("Caption").input_value() == ""
    tab.page.evaluate(
        """(bytes) => {
          const files = new DataTransfer();
          files.items.add(new File([new Uint8Array(bytes)], 'x.png', {type: 'image/png'}));
          document.querySelector('#stage').dispatchEvent(new DragEvent('drop',
            {dataTransfer: files, bubbles: true, cancelable: true}));
        }""",
        list(file.read_bytes()),
    )
    tab.page.wait_for_selector("#shown [role=status] >> text=The form says")
    assert tab.field("Caption").input_value() == PROMPT
    assert tab.field("Seed").input_value() == "7"
    tab.page.get_by_role("button", name="All knobs of sampling").click()
    assert tab.field("Decoder steps").input_value() == "2"


@pytest.mark.parametrize(
    ("title", "given", "fields", "count"),
    [
        ("Vary", 1, {"number input for Variations": "2"}, 2),
        ("Blend", 2, {"number input for Frames": "3"}, 3),
        ("Edit", 1, {"number input for Frames": "2", "What it should become": "a star"}, 2),
        ("Upscale", 1, {}, 1),
        ("Probe", 1, {"Numbers of components": "2 4"}, 2),
        ("Compare", 0, {"Caption": "a star", "number input for Images a side": "1"}, 2),
    ],
)
def test_each_tab_makes_what_its_command_and_its_program_make(
    tab: Tab, served: Served, images: list[Path], tmp_path: Path,
    title: str, given: int, fields: dict[str, str], count: int,
) -> None:  # fmt: skip
    tab.choose(title)
    tab.few()
    tab.give(*images[:given])
    for label, value in fields.items():
        tab.field(label).fill(value)
        tab.field(label).press("Tab")
    if title == "Edit":
        tab.field("number input for Steps of the inversion").fill("5")
    tab.start()
    check_same(tab, served, tmp_path, COMMANDS.get(title, title.lower()), count)
    _save(tab, title.lower())
    if title == "Blend":
        check_frames(tab, served)
    if title == "Edit":
        check_live(tab)


def check_frames(tab: Tab, served: Served) -> None:
    """A slider goes through the frames; a GIF shows them."""
    slider, screen = tab.page.locator("[data-frames]"), tab.page.locator(".screen img:visible")
    assert slider.input_value() == "1"
    slider.press("ArrowRight")
    assert screen.count() == 1
    assert screen.get_attribute("alt").endswith("θ = 1.00")
    assert tab.page.inner_text(".frames output") == "θ = 1.00"
    gif = tab.page.get_attribute(".file img", "src")
    with Image.open(io.BytesIO(served.http.get(f"/{gif}").content)) as moving:
        assert (moving.format, moving.n_frames) == ("GIF", 4)


def check_live(tab: Tab) -> None:
    """Letting go of θ draws the strip anew."""
    slider = tab.page.get_by_label("range slider for θ").locator("visible=true")
    slider.focus()
    slider.press("End")
    tab.page.wait_for_selector("#shown .done >> text=θ = 1.00")


def test_what_is_brushed_over_is_repainted(
    tab: Tab, served: Served, images: list[Path], tmp_path: Path
) -> None:
    tab.choose("Inpaint")
    tab.few()
    tab.field("number input for Images").fill("1")
    tab.give(images[0])
    tab.field("What the image shows then").fill("a star")
    brush = tab.page.locator(".brush canvas >> visible=true")
    brush.wait_for()
    box = brush.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.mouse.move(*middle)
    tab.page.mouse.down()
    tab.page.mouse.move(middle[0] + 40, middle[1] + 20, steps=4)
    tab.page.mouse.up()
    brush.focus()
    tab.page.keyboard.press(" ")  # keys brush too
    tab.page.keyboard.press("ArrowLeft")
    tab.page.keyboard.press(" ")
    tab.start()
    tab.made("inpaint")
    mask = tab.page.get_attribute("figure.file img", "src")
    (tmp_path / "mask.png").write_bytes(served.http.get(f"/{mask}").content)
    shown = check_same(tab, served, tmp_path, "inpaint", 1)
    _save(tab, "inpaint")
    [made] = fetched(served, shown)
    before = Image.open(images[0])
    assert made.getpixel((0, 0)) == before.getpixel((0, 0))
    assert made.tobytes() != before.tobytes()


def test_latents_of_an_image(tab: Tab, served: Served, images: list[Path], tmp_path: Path) -> None:
    tab.choose("Invert")
    tab.give(images[0])
    tab.field("number input for Steps of the inversion").fill("5")
    tab.start()
    check_same(tab, served, tmp_path, "invert", 1)
    _save(tab, "invert")
    assert "PSNR" in tab.page.inner_text("#shown .fact")
    with tab.page.expect_download() as saving:
        tab.page.click("p.file a")
    saving.value.save_as(tmp_path / "saved.safetensors")
    saved, written = (Latents.load(tmp_path / f"{one}.safetensors") for one in ("saved", "one"))
    assert torch.equal(saved.x_T, written.x_T)
    assert torch.equal(saved.z_i, written.z_i)


def test_an_image_is_sent_to_another_tab(tab: Tab) -> None:
    tab.open()
    tab.few()
    tab.field("Caption").fill("a star")
    tab.field("number input for Images").fill("1")
    tab.field("Caption").press("Enter")
    tab.made("generate")
    tab.page.click("#shown summary[aria-label^=Use]")
    tab.page.click("[data-use=vary]")
    tab.page.wait_for_selector("button.make >> visible=true >> text=Vary")
    tab.page.wait_for_selector(".tabitem:visible img")
    tab.start()
    tab.page.wait_for_selector("#shown figure.given")
    tab.made("vary")


def test_what_is_missing_is_a_sentence(tab: Tab) -> None:
    tab.page.evaluate("localStorage.clear()")
    tab.open()
    for title, sentence in (
        ("Generate", "Say what the images should show."), ("Vary", "Give an image first."),
        ("Blend", "Give two images first."), ("Inpaint", "Give an image first."),
        ("Compare", "Say what the images should show."),
    ):  # fmt: skip
        tab.choose(title)
        if title in ("Generate", "Compare"):
            tab.field("Caption").fill(" ")
        tab.start()
        tab.page.wait_for_selector(f"#shown [role=alert] >> text={sentence}")
        assert tab.wrong() == sentence


def test_what_makes_no_sense_is_a_sentence(tab: Tab, tmp_path: Path) -> None:
    tab.choose("Generate")
    tab.field("Caption").fill("a star")
    tab.field("Seed").fill("seven")
    tab.start()
    tab.page.wait_for_selector("#shown [role=alert] >> text=seed")
    assert tab.wrong() == "The seed is a whole number."
    tab.field("Seed").fill("7")
    tab.field("Decoder guidance scale").fill("-3")
    tab.start()
    tab.page.wait_for_selector("#shown [role=alert] >> text=guidance")
    assert tab.wrong().count(".") <= 2
    tab.field("Decoder guidance scale").fill("")
    (tmp_path / "none.png").write_bytes(b"no image")
    tab.page.locator("#head input[type=file]").set_input_files(tmp_path / "none.png")
    tab.page.wait_for_selector("#shown [role=alert] >> text=none.png")
    tab.choose("Vary")
    tab.page.locator(".tabitem:visible input[type=file]").first.set_input_files(
        tmp_path / "none.png"
    )
    tab.page.wait_for_selector(".tabitem:visible img", state="attached")
    tab.start()
    tab.page.wait_for_selector("#shown [role=alert] >> text=is not an image")


def test_cancelling_frees_the_machine(tab: Tab, served: Served) -> None:
    desk = served.desk
    inner = desk.scheduler.engine
    desk.scheduler.engine = held = Held(desk)
    try:
        tab.choose("Generate")
        tab.few()
        tab.field("Caption").fill("a star")
        tab.start()
        until(lambda: held.begun == 1)
        tab.page.wait_for_selector("#cancel >> visible=true")
        tab.page.wait_for_selector("#shown progress")
        tab.page.keyboard.press("Escape")
        tab.page.wait_for_selector("#shown [role=alert] >> text=Cancelled")
        held.go()
        until(lambda: held.ended == ["given up"] and not desk.scheduler._places)
        assert held.begun == 1  # the others never start
        tab.page.wait_for_selector("#cancel", state="hidden")
        desk.scheduler.engine = inner
        desk.scheduler.engine = held = Held(desk)
        tab.start()  # whoever goes away frees it, too
        until(lambda: held.begun == 1)
        tab.page.goto("about:blank")
        until(lambda: not desk.scheduler._places)
    finally:
        held.go()
        desk.scheduler.engine = inner
    tab.open()
    tab.errors.clear()  # gradio's own, of a stream that ended with its page


def test_a_key_opens_the_page(pipe: Pipeline, browser: Any) -> None:
    key = "a-key-of-some-length"
    context = browser.new_context()
    with serving(pipe, with_page, keys=Keys({key: "somebody"})) as one:
        page = context.new_page()
        page.goto(one.server.address)
        page.fill("input", "another-key-of-length")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert] >> text=The key is wrong")
        page.fill("input", key)
        page.keyboard.press("Enter")
        page.wait_for_selector("textarea >> visible=true", timeout=PATIENCE)
        context.close()


def test_a_reload_keeps_the_form(tab: Tab, images: list[Path]) -> None:
    tab.choose("Generate")
    tab.field("Caption").fill(PROMPT)
    tab.field("Seed").fill("12")
    tab.choose("Vary")
    tab.give(images[0])
    tab.page.wait_for_timeout(300)
    tab.open()
    tab.page.wait_for_function("document.querySelector('textarea').value !== ''")
    assert tab.field("Caption").input_value() == PROMPT
    assert tab.field("Seed").input_value() == "12"
    tab.choose("Vary")
    tab.page.wait_for_selector(".tabitem:visible img")
    tab.field("Seed").fill("0")


def test_a_phone_a_keyboard_and_the_dark(tab: Tab) -> None:
    page = tab.page
    tab.open()
    page.set_viewport_size({"width": 375, "height": 720})
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    _save(tab, "phone")
    stage, form = (page.locator(one).bounding_box() for one in ("#stage", "button.make:visible"))
    assert stage["y"] > form["y"]
    assert stage["width"] > 320
    tab.few()
    tab.field("Caption").focus()
    page.keyboard.type("a star")
    page.keyboard.press("Control+Enter")
    tab.made("generate")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.emulate_media(color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    page.wait_for_function(f"{colour} === 'rgb(12, 15, 23)'")
    page.get_by_role("button", name="Light or dark").click()
    page.wait_for_function(f"{colour} === 'rgb(248, 250, 252)'")
    tab.open()
    page.wait_for_function(f"{colour} === 'rgb(248, 250, 252)'")  # though the system is dark
    _save(tab, "phone-dark")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate("localStorage.clear()")
    tab.open()
