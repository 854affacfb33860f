"""The page in a real browser: every tab makes an image, which its command and its program make
again; what goes wrong; what a reload keeps; phones, keys, light and dark."""

import contextlib
import io
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.interfaces.server.conftest import Served, picture
from tests.interfaces.web.conftest import Tab
from unclip.interfaces.cli import main
from unclip.outputs.images import read_info

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


def check_same(tab: Tab, served: Served, tmp_path: Path, count: int) -> list[Any]:
    """That what the page says does the same makes the same images, bit for bit."""
    shown = tab.made()
    made = [image.tobytes() for image in fetched(served, shown)]
    assert len(made) == count
    alts = [one.get_attribute("alt") for one in tab.page.query_selector_all("#shown img")]
    assert all(alts)
    with contextlib.chdir(tmp_path):
        for line in tab.page.inner_text("[data-command]").splitlines():
            name, *words = shlex.split(line)
            assert name == "unclip"
            assert main(words) == 0
        written = sorted((tmp_path / "out").glob("*.png"), key=_number)
        assert [Image.open(file).tobytes() for file in written] == made
        exec(compile(tab.page.inner_text("[data-python]"), "program", "exec"), {})
        saved = sorted(tmp_path.glob("*[0-9].png"), key=lambda file: file.name)
        assert sorted(Image.open(file).tobytes() for file in saved) == sorted(made)
    return shown


def _number(file: Path) -> int:
    return int(re.findall(r"\d+", file.stem)[-1])


def test_a_caption_becomes_a_sheet(tab: Tab, served: Served, tmp_path: Path) -> None:
    tab.choose("Generate")
    tab.few()
    tab.field("Caption").fill(PROMPT)
    tab.field("Seed").fill("7")
    tab.field("number input for Images").fill("2")
    tab.start()
    shown = check_same(tab, served, tmp_path, 2)
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
    tab.start()
    check_same(tab, served, tmp_path, count)
    _save(tab, title.lower())
