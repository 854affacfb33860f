"""Make the pictures of README.md and docs/manipulations.md anew, with the bundled model: `make
pictures`.

python recipes/pictures.py

Run from the repository's root. The README's pictures are what its own commands write, read from it
and run in an empty folder. Each picture of docs/manipulations.md is what one command writes, and
the document shows the command under it. They start from scenes of the built-in world that training
never showed, and from images that the model makes itself; both are written into out/pictures/.
"""

import contextlib
import re
import runpy
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from unclip.data.world.scene import WorldConfig
from unclip.data.world.world import World
from unclip.interfaces.cli import main
from unclip.interfaces.cli.evaluations.shared import WORLD
from unclip.outputs.images import contact_sheet, read_info, save_png
from unclip.storage.folder import ModelFolder, bundled

README = Path(__file__).resolve().parents[1] / "README.md"
# What the README's commands wrote: the sheet that shows it in IMAGES.
SHEETS = {"out/first.png": "first.png", "out/blend.png": "readme-blend.png"}
CHANGES = "readme-changes.png"
_PART = (40, 38, 72, 70)  # of the star, pixels: what shows how much finer the enlarged one is
INPUTS = Path("out/pictures")
IMAGES = Path("docs/images")
MOST_BYTES = 150_000  # of a picture

# Held-out scenes of one object, by number: file in INPUTS.
SCENES = {
    11: "star.png",  # a yellow star in front of sky and grass
    30: "crescent.png",  # a red crescent at night
    10: "heart.png",  # an orange heart on a green background
    17: "circle.png",  # a large pink circle in front of the sea
}
GENERATED = 'generate "a blue triangle on a white background" --seed 7 -o out/pictures/triangle.png'
# File in IMAGES: the command that writes it.
PICTURES = {
    "variations.png": "vary out/pictures/heart.png out/pictures/circle.png"
    " out/pictures/triangle.png -n 5 -o docs/images/variations.png",
    "blend.png": "blend out/pictures/star.png out/pictures/crescent.png --invert --frames 7"
    " -o docs/images/blend.png",
    "edit-colour.png": 'edit out/pictures/heart.png --from "an orange heart on a green background"'
    ' --to "a pink heart on a green background" --theta 0.5 --frames 6'
    " -o docs/images/edit-colour.png",
    "edit-scene.png": 'edit out/pictures/heart.png --from "an orange heart on a green background"'
    ' --to "an orange heart at night" --theta 0.5 --frames 6 -o docs/images/edit-scene.png',
    "probe.png": "probe out/pictures/circle.png -o docs/images/probe.png",
    "inversion.png": "invert out/pictures/star.png out/pictures/heart.png out/pictures/triangle.png"
    " -o out/pictures/latents.safetensors --sheet docs/images/inversion.png",
}
# File in IMAGES: the example that writes it, and its arguments.
EXAMPLES = {
    "priors.png": (
        "compare_priors.py",
        ["a red circle", "a yellow star at night", "a blue heart on a pink background"],
    ),
    "scene.png": ("scene_by_edits.py", []),
}


def readme_commands() -> Iterator[list[str]]:
    """The words after `unclip` of the README's commands that make images, in their order."""
    images, _, _ = README.read_text(encoding="utf-8").partition("\n## Train")
    for block in re.findall(r"^```(?:sh|console)\n(.*?)^```", images, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("unclip "):
                yield shlex.split(line, comments=True)[1:]


def make_readme(more: Callable[[str], Sequence[str]] = lambda command: []) -> None:
    """Run the README's commands in an empty folder, and write its pictures.

    Args:
        more: see `make`.
    """
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.chdir(folder):
            for words in readme_commands():
                if main([*words, *more(words[0])]):
                    raise ValueError(f"unclip {shlex.join(words)} failed")
        made = Path(folder)
        for source, name in SHEETS.items():
            with Image.open(made / source) as sheet:
                save_png(sheet, IMAGES / name, read_info(made / source))
        save_png(_changes(made / "out"), IMAGES / CHANGES, read_info(made / "out/star.png"))
    for name in (*SHEETS.values(), CHANGES):
        _reduce(IMAGES / name)


def _changes(out: Path) -> Image.Image:
    """One row of what was made of the star."""
    star, larger = (Image.open(out / name) for name in ("star.png", "larger.png"))
    scale = larger.width // star.width
    enlarged = larger.crop(tuple(x * scale for x in _PART))
    cells = {
        "star.png": star,
        "vary": Image.open(out / "variations/vary-000.png"),
        "vary ": Image.open(out / "variations/vary-001.png"),
        "edit": Image.open(out / "edited.png"),
        "inpaint": Image.open(out / "inpainted.png"),
        "a part": star.crop(_PART).resize(enlarged.size, Image.Resampling.NEAREST),
        "upscale": enlarged,
    }
    return contact_sheet([[*cells.values()]], [], [*cells], cell=star.width)


def make(more: Callable[[str], Sequence[str]] = lambda command: []) -> None:
    """Write inputs and pictures.

    Args:
        more: further words for a command; tests make everything smaller.

    Raises:
        ValueError: a command fails, or a picture is too large a file.
    """
    config = {**vars(WORLD), "size": 128, "max_objects": 1, "split": "held-out"}
    world = World(WorldConfig(**config))
    for number, name in SCENES.items():
        save_png(Image.fromarray(world[number][0]), INPUTS / name, {})
    for line in (GENERATED, *PICTURES.values()):
        words = shlex.split(line)
        for flag in {"-o", "--sheet"} & {*words}:  # the command would keep the earlier one
            Path(words[words.index(flag) + 1]).unlink(missing_ok=True)
        if main([*words, *more(words[0])]):
            raise ValueError(f"unclip {line} failed")
    for name in PICTURES:
        _reduce(IMAGES / name)


def make_example(name: str, *more: str) -> None:
    """Write the picture that one of the examples makes."""
    script, words = EXAMPLES[name]
    path = Path(__file__).parents[1] / "examples" / script
    runpy.run_path(str(path))["main"]([*words, "--out", str(IMAGES), *more])
    _reduce(IMAGES / name)


def _reduce(path: Path) -> None:
    """To 256 colours, so chosen that none is far off: files of less than half the size."""
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3)
    save_png(reduced, path, read_info(path))
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; show fewer images in it")


if __name__ == "__main__":
    make_readme()
    make()
    make_example("scene.png")
    index = ModelFolder(bundled("model")).index()
    if {"prior", "autoregressive_prior"} <= set(index):
        make_example("priors.png")
