"""PNG files that know how they were made, and contact sheets."""

import errno
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from unclip.outputs import images
from unclip.outputs.images import contact_sheet, read_info, save_png

RED = Image.new("RGB", (8, 6), (200, 10, 20))
INFO: dict[str, Any] = {
    "prompt": "a red circle above a blue square",
    "seed": 7,
    "model": "models/my unclip",
    "settings": {"prior_num_inference_steps": 25, "decoder_guidance_scale": 3.5, "size": 64},
    "version": "0.1.0",
}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*bodies: bytes) -> bytes:
    """A PNG with these iTXt chunks."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    texts = b"".join(chunk(b"iTXt", body) for body in bodies)
    return b"\x89PNG\r\n\x1a\n" + header + texts + pixels + chunk(b"IEND", b"")


def test_info_survives_and_pixels_too(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "red.png"
    save_png(RED, path, INFO)
    assert read_info(path) == INFO
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), np.asarray(RED))
        assert json.loads(image.text["unclip"]) == INFO
        readable = image.text["parameters"]
    assert readable.splitlines()[0] == INFO["prompt"]
    assert "seed: 7" in readable
    assert "size: 64" in readable
    assert [entry.name for entry in path.parent.iterdir()] == ["red.png"]


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "赤い丸 🔴 над синим квадратом",
        "nul \0, bell \x07, escape \x1b[31m, line\nline\r\n",
        "half \ud83d character",
        "x" * 100_000,
        "赤" * 100_000,
        "'quotes' \"and\" \\ $HOME `date`",
    ],
)
def test_every_prompt_survives(tmp_path: Path, prompt: str) -> None:
    save_png(RED, tmp_path / "x.png", {"prompt": prompt})
    assert read_info(tmp_path / "x.png") == {"prompt": prompt}
    with Image.open(tmp_path / "x.png") as image:
        image.load()


def test_info_beyond_a_mebibyte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="over 1 MiB"):
        save_png(RED, tmp_path / "x.png", {"prompt": "x" * 2**21})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("info", [("a", "b"), {"prompt": {1, 2}}, {"seed": object()}, None])
def test_info_that_json_cannot_hold_is_refused(info: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="info "):
        save_png(RED, tmp_path / "x.png", info)
    with pytest.raises(ValueError, match="path must be a path"):
        save_png(RED, 1.5, {})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_saving_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    save_png(RED, path, {"prompt": "first"})
    save_png(RED, path, {"prompt": "second"})
    assert read_info(path)["prompt"] == "second"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_failing_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "x.png"
    save_png(RED, path, {"prompt": "old"})

    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(images.os, "fsync", full)
    with pytest.raises(ValueError, match=os.strerror(code)) as caught:
        save_png(RED, path, {"prompt": "new"})
    assert "x.png" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_info(path)["prompt"] == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("path", [3, None, b"x.png", "", "a\0.png", "x" * 300 + ".png", 1j])
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(ValueError, match="path"):
        save_png(Image.new("RGB", (1, 1)), path, {})
    with pytest.raises(ValueError, match="path"):
        read_info(path)


@pytest.mark.parametrize("info", [3, [], {"seed": np.int64(3)}, {"a": {1}}, {1j: 2}])
def test_notes_that_are_none(tmp_path: Path, info: Any) -> None:
    with pytest.raises(ValueError, match="info"):
        save_png(Image.new("RGB", (1, 1)), tmp_path / "x.png", info)
    assert not list(tmp_path.iterdir())


def test_interrupted_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(images.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_png(RED, tmp_path / "x.png", {})
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "kept").write_text("x")
    places = {
        tmp_path / "file" / "x.png": "cannot be written",
        tmp_path / "folder.png": "cannot be written",
        tmp_path / ("n" * 300 + ".png"): "is too long to be a file's name",
        tmp_path / "nul\0.png": "can be no file's name",
        tmp_path / "x.jpg": "does not end in .png",
        tmp_path / "x": "does not end in .png",
    }
    for place, reason in places.items():
        with pytest.raises(ValueError, match=reason):
            save_png(RED, place, {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.png"]


def itxt(text: bytes, key: bytes = b"unclip", compressed: bool = False) -> bytes:
    return key + b"\0" + (b"\1\0" if compressed else b"\0\0") + b"en\0\0" + text


def test_reads_what_other_programs_rewrite(tmp_path: Path) -> None:
    text = json.dumps(INFO).encode()
    path = tmp_path / "x.png"
    path.write_bytes(png(itxt(b"other", b"Comment"), itxt(zlib.compress(text), compressed=True)))
    assert read_info(path) == INFO
    save_png(RED, path, INFO)
    data = path.read_bytes()
    start = data.index(b"iTXt") - 4  # move the texts behind the pixels
    end = data.index(b"IDAT") - 4
    last = data.index(b"IEND") - 4
    path.write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
    assert read_info(path) == INFO


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a PNG"),
        (b"\xff\xd8\xff\xe0 a JPEG", "not a PNG"),
        (b"just text", "not a PNG"),
        (png(), "does not say how it was made"),
        (png(itxt(b"{}", b"Comment")), "does not say how it was made"),
        (png(itxt(b'{"prompt": "x"}'))[:70], "cut short"),
        (png(itxt(b"{nonsense")), "damaged notes"),
        (png(itxt(b"[1, 2]")), "damaged notes"),
        (png(itxt(b"[" * 100_000)), "damaged notes"),
        (png(itxt(b"\xff\xfe")), "damaged notes"),
        (png(b"unclip\0"), "damaged notes"),
        (png(b"unclip\0\0\0no separators"), "damaged notes"),
        (png(itxt(b"not zlib", compressed=True)), "damaged notes"),
        (png(itxt(zlib.compress(b" " * 2**28), compressed=True)), "damaged notes"),  # a bomb
        (png(itxt(b" " * 2**21)), "over 1 MiB"),
        (b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffiTXtunclip\0", "cut short"),
    ],
)
def test_foreign_and_hostile_files_give_one_sentence(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=reason) as caught:
        read_info(path)
    assert "x.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_huge_foreign_texts_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(itxt(b" " * 2**22, b"XML:com.adobe.xmp"), itxt(b'{"prompt": "x"}')))
    assert read_info(path) == {"prompt": "x"}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.png", tmp_path):
        with pytest.raises(ValueError, match=r"cannot be read|is a folder"):
            read_info(path)


def colour(level: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, (level, 0, 255 - level))


def test_contact_sheet_places_every_image() -> None:
    rows = [[colour(10 * (3 * y + x)) for x in range(3)] for y in range(2)]
    sheet = contact_sheet(rows, ["first row", "second row"], ["a", "b", "c"], title="six", cell=64)
    colours = {value for _, value in sheet.getcolors(10**6) or ()}
    pixels = np.asarray(sheet)
    places = {}
    for y in range(2):
        for x in range(3):
            value = (10 * (3 * y + x), 0, 255 - 10 * (3 * y + x))
            assert value in colours
            found = np.argwhere((pixels == value).all(-1))
            assert len(found) == 64 * 64  # whole, and covered by nothing
            places[y, x] = found.min(0)
    assert all((places[y, 0] < places[y, 1]).tolist() == [False, True] for y in range(2))
    assert all((places[0, x] < places[1, x]).tolist() == [True, False] for x in range(3))
    left, above = pixels[:, : places[0, 0][1]], pixels[: places[0, 0][0]]
    assert left.min() < 100  # labels are there
    assert above.min() < 100
    assert pixels[:, -4:].min() == 255  # nothing runs off the page
    assert pixels[-4:].min() == 255


def test_contact_sheet_takes_gaps_sizes_and_long_labels(tmp_path: Path) -> None:
    rows = [[colour(0, (32, 32)), None], [colour(255, (300, 100))]]
    labels = ["word " * 100, "x" * 500]
    path = tmp_path / "sheet.png"
    sheet = contact_sheet(rows, labels, ["one", ""], path, cell=128, info={"prompt": "p"})
    assert read_info(path) == {"prompt": "p"}
    assert sheet.width < 128 * 2 + 250
    assert sheet.height < 2000
    assert contact_sheet([[RED]]).size > (96, 96)


@pytest.mark.parametrize(
    "label",
    [
        "красный круг",
        "赤い丸",
        "دائرة حمراء",
        "🐱🔴",
        "a\0b\x1b\n",
        "",
        "\u202eabc",
        "é×…",
        "\ud83d",
    ],
)
def test_labels_of_any_script(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    contact_sheet([[RED]], [label], [label], title=label)
    monkeypatch.setattr(images, "_WIDE_FONTS", ())  # a machine without any font
    images._load_font.cache_clear()
    contact_sheet([[RED]], [label], [label], title=label)
    bitmap = ImageFont.load_default_imagefont()  # Pillow without FreeType
    monkeypatch.setattr(images, "_font", lambda text, size: bitmap)
    contact_sheet([[RED]], [label], [label], title=label)


def test_contact_sheet_refuses() -> None:
    for nothing in ([], [[]], [[None]]):
        with pytest.raises(ValueError, match="at least one image"):
            contact_sheet(nothing)
    with pytest.raises(ValueError, match="more labels"):
        contact_sheet([[RED]], ["a", "b"])
    with pytest.raises(ValueError, match="more labels"):
        contact_sheet([[RED]], (), ["a", "b"])
    with pytest.raises(ValueError, match="too big"):
        contact_sheet([[RED] * 200] * 200, cell=1024)


def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, image = tmp_path / "a.png", Image.new("RGB", (8, 8))
    save_png(image, file, {"seed": 1})

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as partial:
            partial.write(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(ValueError, match=r"a\.png cannot be written: No space left"):
            save_png(image, file, {"seed": 2})
    assert read_info(file) == {"seed": 1}
    assert list(tmp_path.iterdir()) == [file]
