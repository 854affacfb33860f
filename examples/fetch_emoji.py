"""A folder of real captioned images to train on: 1,911 emoji, 64 px a side, on white.

The pictures are those of the npm package `emoji-datasource-google` (MIT; the artwork is Google's
Noto Emoji, Apache-2.0). `npm pack` fetches it, 74 MB, from the registry that your npm is set up
for; with --package no network is asked. Beside each picture a .txt has its captions, one a line.

python examples/fetch_emoji.py my-images
"""

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

PACKAGE = "emoji-datasource-google@16.0.0"
PICTURES = "package/img/google/64"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the images go; new or empty")
    parser.add_argument("--package", type=Path, help="the package's .tgz, if you have it")
    options = parser.parse_args(arguments)
    if options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"{options.folder} is not empty")
    with tempfile.TemporaryDirectory() as scratch:
        if not options.package:
            npm = ["npm", "pack", "--silent", PACKAGE]
            subprocess.run(npm, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        count = unpack(options.package or next(Path(scratch).glob("*.tgz")), options.folder)
    print(f"{count:,} captioned images written to {options.folder}")


def unpack(archive: Path, folder: Path) -> int:
    """Write each emoji of the package as NAME.png and NAME.txt, and give their number."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as package:
        table = json.load(package.extractfile("package/emoji.json"))  # type: ignore[arg-type]
        known = {f"{PICTURES}/{emoji['image']}": emoji for emoji in table}
        there = [one for one in package if one.name in known]  # without the tones of skin
        for member in there:
            emoji = known[member.name]
            pixels = package.extractfile(member).read()  # type: ignore[union-attr]
            picture = Image.open(io.BytesIO(pixels)).convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            place = folder / emoji["short_name"]
            Image.alpha_composite(white, picture).convert("RGB").save(f"{place}.png")
            Path(f"{place}.txt").write_text("\n".join(captions(emoji)) + "\n", encoding="utf-8")
    return len(there)


def captions(emoji: Mapping[str, Any]) -> list[str]:
    """What it is called: "grinning face", "grinning", "grinning face, face smiling"."""
    name, *others = (words(one) for one in (emoji["name"], *emoji["short_names"]))
    return list(dict.fromkeys([name, *others, f"{name}, {words(emoji['subcategory'])}"]))


def words(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


if __name__ == "__main__":
    main()
