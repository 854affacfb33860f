"""`make pictures`: every picture is made, small, and shown in a document with its command."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from unclip.outputs.images import read_info

ROOT = Path(__file__).parents[2]
QUICK = ["--precision", "fp32", "--super-res-steps", "1"]
MORE = {
    "generate": ["--prior-steps", "2", "--decoder-steps", "2", *QUICK],
    "vary": ["--decoder-steps", "2", *QUICK],
    "blend": ["--invert-steps", "2", *QUICK],
    "edit": ["--invert-steps", "2", *QUICK],
    "probe": ["--samples", "4", "--decoder-steps", "2", *QUICK],
    "invert": ["--steps", "2", "--precision", "fp32"],
}


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "recipes" / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_are_made(
    pictures: ModuleType, tiny_priors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "unclip.pipeline.loading.bundled", lambda name: tiny_priors
    )  # random weights make the pictures
    pictures.make(lambda command: MORE[command])
    for name, line in pictures.PICTURES.items():
        path = tmp_path / "docs" / "images" / name
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 96
        assert path.stat().st_size < pictures.MOST_BYTES
        if name != "inversion.png":
            assert read_info(path)["command"][0] == line.split()[0]
    monkeypatch.setitem(pictures.EXAMPLES, "priors.png", ("compare_priors.py", ["a red star"]))
    pictures.make_example("priors.png")
    pictures.make_example("scene.png", "--steps", "2", "--resamples", "1")
    text = (ROOT / "docs" / "manipulations.md").read_text(encoding="utf-8")
    text += (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    for name in pictures.EXAMPLES:
        assert (tmp_path / "docs" / "images" / name).is_file()
        assert f"](images/{name})" in text


def test_a_picture_that_is_too_large_is_refused(
    pictures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures.save_png(Image.effect_noise((64, 64), 90), tmp_path / "x.png", {})
    monkeypatch.setattr(pictures, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"x\.png has .* bytes; show fewer"):
        pictures._reduce(tmp_path / "x.png")


def test_each_is_shown_with_its_command(pictures: ModuleType) -> None:
    text = (ROOT / "docs" / "manipulations.md").read_text(encoding="utf-8")
    commands = re.sub(r"\\\n\s*", "", text)
    assert f"unclip {pictures.GENERATED}" in commands
    for name, line in pictures.PICTURES.items():
        assert f"](images/{name})" in text
        assert f"unclip {line}" in commands


def test_the_readme_shows_what_its_commands_make(pictures: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in (*pictures.SHEETS.values(), pictures.CHANGES):
        assert f"](docs/images/{name})" in text
    made = [words[0] for words in pictures.readme_commands()]
    assert made.count("generate") == 4
    assert {"vary", "blend", "edit", "inpaint", "upscale"} <= {*made}
    written = " ".join(word for words in pictures.readme_commands() for word in words)
    assert all(source in written for source in pictures.SHEETS)


def test_pictures_of_documents_are_small() -> None:
    for path in (ROOT / "docs" / "images").iterdir():
        assert path.stat().st_size < 300_000, path
