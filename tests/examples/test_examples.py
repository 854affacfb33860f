"""Every script in examples/ runs at a small size, and what it promises is there and opens."""

import importlib.util
import io
import json
import re
import shlex
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from tests.conftest import captioned_folder
from unclip import Latents
from unclip.data.registry import open_source
from unclip.data.sources import read

FOLDER = Path(__file__).parents[2] / "examples"
SCRIPTS = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}

# script: (its words, what it writes into --out). {images} is a folder of captioned pictures.
RUNS: dict[str, tuple[str, list[str]]] = {
    "generate": ("'a red star' heart --steps 2 -n 2", ["0.png", "1.png", "2.png", "3.png"]),
    "train_your_own": (
        "{images} --steps 2 --batch 4 --size 32 --model {out}/model",
        ["trained.png"],
    ),
    "compare_priors": ("'a red star' heart --steps 2 -n 1", ["priors.png"]),
    "upscale": ("{images}/000.png --steps 1", ["larger.png", "upscaled.png"]),
    "inversion": (
        "{images}/000.png {images}/001.png --steps 1 2",
        ["latents.safetensors", "back.png"],
    ),
    "variations": ("{images}/000.png --steps 2 -n 2", ["variations.png"]),
    "interpolation": (
        "{images}/000.png {images}/001.png --steps 2 -n 3",
        ["interpolation.apng"],
    ),
    "edit_by_words": ("{images}/000.png 'a star' 'a heart' --steps 2 -n 2", ["edit.png"]),
    "scene_by_edits": ("--steps 2 --resamples 1", ["scene.png"]),
    "search_images": ("{images} -n 3 --classes star heart", ["found.png"]),
    "your_own_embeddings": ("'a red star' heart --steps 2 -n 3", ["embeddings.png"]),
}


def load(name: str) -> ModuleType:
    """The script as a module, not run."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", SCRIPTS[name])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", RUNS)
def test_it_runs(name: str, tiny_priors: Path, tmp_path: Path) -> None:
    images, out = captioned_folder(tmp_path / "images", 8), tmp_path / "out"
    line, promised = RUNS[name]
    words = shlex.split(line.format(images=images, out=out))
    model = [] if "--model" in words else ["--model", str(tiny_priors)]
    load(name).main([*words, *model, "--out", str(out)])
    for file in promised:
        if file.endswith(".safetensors"):
            assert len(Latents.load(out / file)) == 2
            continue
        with Image.open(out / file) as image:
            image.load()
            assert min(image.size) >= 16
            assert getattr(image, "n_frames", 1) == (4 if file.endswith(".apng") else 1)


def test_every_script_has_a_run() -> None:
    assert set(SCRIPTS) == {*RUNS, "fetch_emoji"}, "add the script to RUNS"


def _package(path: Path, emoji: list[dict[str, object]]) -> Path:
    """A package as npm packs it: the table, and a picture of each emoji and of a tone of skin."""
    picture = io.BytesIO()
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(picture, "PNG")
    files = {"emoji.json": json.dumps(emoji).encode(), "img/google/64/2.png": picture.getvalue()}
    files |= {f"img/google/64/{one['image']}": picture.getvalue() for one in emoji}
    with tarfile.open(path, "w:gz") as package:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            package.addfile(member, io.BytesIO(content))
    return path


def test_emoji_are_unpacked_as_a_folder_that_can_be_trained_on(tmp_path: Path) -> None:
    emoji: list[dict[str, object]] = [
        {"name": "GRINNING FACE", "short_names": ["grinning"], "subcategory": "face-smiling"},
        {"name": "MEXICO FLAG", "short_names": ["flag-mx"], "subcategory": "country-flag"},
    ]
    for number, one in enumerate(emoji):
        one |= {"short_name": one["short_names"][0], "image": f"{number}.png"}  # type: ignore[index]
    package = _package(tmp_path / "package.tgz", emoji)
    load("fetch_emoji").main([str(tmp_path / "images"), "--package", str(package)])
    source = open_source(str(tmp_path / "images"), size=64, split="all")
    assert sorted(source.captions()) == [
        "flag mx", "grinning", "grinning face", "grinning face, face smiling",
        "mexico flag", "mexico flag, country flag",
    ]  # fmt: skip
    assert [int(sample["image"].min()) for sample in read(source, range(2))] == [255, 255]
    with pytest.raises(SystemExit):
        load("fetch_emoji").main([str(tmp_path / "images"), "--package", str(package)])


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_is_short_and_says_how_to_run_it(name: str) -> None:
    text = SCRIPTS[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 70
    doc = load(name).__doc__ or ""
    assert re.search(rf"^python examples/{name}\.py", doc, re.MULTILINE)
    assert f"]({name}.py)" in (FOLDER / "README.md").read_text(encoding="utf-8")
