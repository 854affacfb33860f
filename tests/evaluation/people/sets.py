"""Folders of images as models make them, to be compared."""

from pathlib import Path

from PIL import Image

from unclip.outputs.images import save_png

CAPTIONS = ("a red star", "a blue ring", "a green heart")


def image_set(folder: Path, red: int, each: int = 2, captions: tuple[str, ...] = CAPTIONS) -> Path:
    """`each` small images for every caption, with unclip's notes; models differ in `red`."""
    for row, caption in enumerate(captions):
        for k in range(each):
            image = Image.new("RGB", (16, 16), (red, 60 * row, 9 * k))
            info = {"prompt": caption, "seed": k, "model": folder.name}
            save_png(image, folder / f"{row}-{k:02}.png", info)
    return folder
