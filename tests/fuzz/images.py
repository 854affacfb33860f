"""Image files of many formats, modes, sizes and damages, and the notes in our own PNGs."""

import json
import struct
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.fuzz.case import CODES, QUICK, Case, Good
from tests.fuzz.hostile import JSON, WORDS, document, replace, spoil_bytes

_FORMATS = {
    "PNG": (".png", ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")),
    "JPEG": (".jpg", ("L", "RGB", "CMYK", "YCbCr")),
    "GIF": (".gif", ("1", "L", "P", "RGB", "RGBA")),
    "BMP": (".bmp", ("1", "L", "P", "RGB", "RGBA")),
    "TIFF": (
        ".tif",
        ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"),
    ),
    "WEBP": (".webp", ("RGB", "RGBA", "L")),
    "PPM": (".ppm", ("1", "L", "RGB", "I", "F")),
    "JPEG2000": (".jp2", ("L", "LA", "RGB", "RGBA", "I;16")),
    "AVIF": (".avif", ("RGB", "RGBA")),
    "TGA": (".png", ("RGB",)),  # formats that are not opened, under names that are
    "EPS": (".jpg", ("RGB",)),
    "ICO": (".png", ("RGBA",)),
    "PDF": (".png", ("RGB",)),
}
_SIZES = ((40, 30), (40, 30), (32, 32), (1, 1), (1, 2000), (3000, 2), (7, 5), (2, 2), (300, 200))
_COMMANDS = (
    ("vary", "{}"),
    ("edit", "{}", "--to", "a star", "--no-invert"),
    ("invert", "{}", "--steps", "2"),
    ("blend", "{}", "{}", "--frames", "2"),
    ("inpaint", "{}", "a star", "--box", "0,0,1,1", "--resamples", "1", "--prior-steps", "1"),
    ("inpaint", "good.png", "{}", "a star", "--resamples", "1", "--prior-steps", "1"),
    ("upscale", "{}"),
    ("embed", "{}"),
    ("probe", "{}", "--components", "2", "--data", "{two}"),
    ("info", "{}"),
    ("verify", "{}"),
    ("verify", "{}"),
)
_OUTPUTS = {"invert": "o.safetensors", "embed": "o.npy"}
_SLOWER = {"invert": ("--precision", "fp32"), "embed": ("--precision", "fp32")}


def make(random: Random, place: Path, good: Good) -> Case:
    if random.random() < 0.2:
        return Case(_notes(random, place / "x.png"), ("info", "x.png"))
    kind = random.choice(list(_FORMATS))
    suffix, modes = _FORMATS[kind]
    mode, size = random.choice(modes), random.choice(_SIZES)
    file = place / f"x{suffix}"
    picture = _picture(random, mode, size)
    try:
        picture.save(file, kind, **_options(random, kind))
    except (OSError, RuntimeError, ValueError):  # what Pillow cannot write
        Image.new("L", size, 99).save(file, "PNG")
    said = f"{kind} {mode} {size}"
    spoil = random.choice((None, replace, spoil_bytes, spoil_bytes, _bomb))
    said += f", {spoil(random, file)}" if spoil else ""
    if file.is_file() and random.random() < 0.15:
        name = random.choice(WORDS).replace("/", "_")
        if random.random() < 0.7:
            name = name[:200] + random.choice((".png", ".JPG", ".jpeg", ".safetensors"))
        if name not in ("", ".", "..") and len(name.encode(errors="surrogateescape")) < 255:
            file = file.rename(place / name)
    words = _words(random, file.name, place, good)
    return Case(said, words, codes=CODES.get(words[0], Case.codes))


def _words(random: Random, name: str, place: Path, good: Good) -> tuple[str, ...]:
    command, *rest = random.choice(_COMMANDS)
    if "good.png" in rest:
        good.copy("images/000.png", place).rename(place / "good.png")
    places = {
        "{}": f"./{name}" if name.startswith("-") else name,
        "{two}": str(good.root / "two.npy"),
    }
    words = (command, *(places.get(word, word) for word in rest))
    if command in ("info", "verify"):
        return words
    quick = _SLOWER.get(command, QUICK)
    if command == "upscale":
        quick = ("--precision", "fp32", "--super-res-steps", "1")
    return (*words, "--model", str(good.model), *quick, "-o", _OUTPUTS.get(command, "o.png"))


def _picture(random: Random, mode: str, size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(random.randrange(2**32)).integers(0, 256, (*size[::-1], 3), "u1")
    colours = Image.fromarray(noise)
    if mode == "I;16":
        return Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    if mode == "F":
        values = noise[..., 0].astype(np.float32)
        values.flat[0] = random.choice((0, np.nan, np.inf, -1e38, 1e38))
        return Image.fromarray(values)
    if mode == "I":
        return Image.fromarray(noise[..., 0].astype(np.int32) * random.choice((1, -1, 2**20)))
    if mode == "LAB":
        return Image.fromarray(noise, "LAB")
    return colours.convert("L").convert(mode) if mode in ("LA",) else colours.convert(mode)


def _options(random: Random, kind: str) -> dict[str, Any]:
    """What a file may carry beside its pixels: orientation, profiles, comments, frames."""
    options: dict[str, Any] = {}
    if kind in ("JPEG", "PNG", "WEBP", "TIFF") and random.random() < 0.4:
        exif = Image.Exif()
        exif[0x0112] = random.choice((1, 2, 5, 6, 8, 0, 9, 65535))
        good = exif.tobytes()
        options["exif"] = random.choice((good, good, good[:15], b"Exif\0\0" + bytes(40)))
        if kind == "TIFF":
            exif[0x0112] = exif[0x0112] % 8 + 1  # libtiff writes no other
            options["exif"] = exif
    if kind in ("JPEG", "PNG", "WEBP", "TIFF") and random.random() < 0.2:
        options["icc_profile"] = random.randbytes(200)
    if kind in ("GIF", "PNG", "WEBP", "TIFF") and random.random() < 0.2:
        options |= {"save_all": True, "append_images": [Image.new("RGB", (9, 9))] * 3}
    if kind == "TIFF":
        options["compression"] = random.choice((None, "tiff_lzw", "tiff_deflate", "packbits"))
    if kind == "JPEG":
        options["progressive"] = random.random() < 0.5
    return options


def _bomb(random: Random, file: Path) -> str:
    """Let a header promise other sides than the file has; PNGs and BMPs only."""
    raw = bytearray(file.read_bytes())
    sides = [random.choice((0, 1, 3, 12_000, 60_000, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
    if raw[:4] == b"\x89PNG":
        raw[16:24] = struct.pack(">II", *sides)
        raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    elif raw[:2] == b"BM":
        raw[18:26] = struct.pack("<II", *sides)
    else:
        return spoil_bytes(random, file)
    file.write_bytes(raw)
    return f"sides {sides}"


def _notes(random: Random, file: Path) -> str:
    """A PNG whose notes on how it was made are spoiled."""
    settings = {"steps": "fast", "decoder_num_inference_steps": 3, "eta": 0.5, "size": 32}
    notes = {"prompt": "a star", "seed": 3, "model": None, "settings": settings, "version": "0.1.0"}
    if random.random() < 0.3:
        notes = {"command": ["vary", "x.png", "--seed", "1"], "seed": 1, "settings": settings}
    if random.random() < 0.4:
        word = random.choice(WORDS).encode(errors="replace").decode()
        notes[random.choice(list(notes))] = random.choice((word, [word], {word: word}))
        text, said = json.dumps(notes), f"notes {word[:40]!r}"
    else:
        text, said = document(random, notes, JSON, json.dumps)
    chunks = PngInfo()
    if random.random() < 0.1:
        text = text * random.choice((2, 20_000))
    chunks.add_itxt("unclip", text, zip=random.random() < 0.3)
    Image.new("RGB", (8, 8)).save(file, pnginfo=chunks)
    return f"{said}, {spoil_bytes(random, file)}" if random.random() < 0.1 else said
