"""Folders of captioned images as sources; every kind of broken folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.data import captions
from unclip.data.folder import FolderSource


def put(path: Path, width: int = 40, height: int = 32, seed: int = 0) -> Path:
    """An image of noise around one colour, so that different images differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3))
    Image.fromarray((noise + 10 * (seed % 15)).astype(np.uint8)).save(path)
    return path


def folder(root: Path, count: int = 6) -> Path:
    for number in range(count):
        put(root / f"{number}.png", seed=number)
        (root / f"{number}.txt").write_text(f"picture {number}\nthe number {number}\n")
    return root


def test_text_beside_each_image(tmp_path: Path) -> None:
    source = FolderSource(folder(tmp_path / "photos"), 16)
    assert len(source) == 6
    sample = source[2]
    assert sample["image"].shape == (3, 16, 16)
    assert sample["image"].dtype == torch.uint8
    assert sample["caption"] in ("picture 2", "the number 2")
    assert source.check().captions == 12
    assert not source.check().problems


def test_tables_and_folders_mix(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png")
    put(tmp_path / "a" / "deep" / "2.JPG")
    put(tmp_path / "b" / "3.webp")
    put(tmp_path / "4.bmp")
    rows = [
        {"file_name": "1.png", "text": "one", "extra": 7},
        {"file_name": "deep/2.JPG", "caption": ["two", "zwei"]},
    ]
    lines = "\n\n".join(json.dumps(row) for row in rows)
    (tmp_path / "a" / "metadata.jsonl").write_text(lines)
    table = 'file,caption\n3.webp,"three, with a comma"\n3.webp,drei\n'
    (tmp_path / "b" / "captions.csv").write_text(table)
    (tmp_path / "4.txt").write_text("\n  four\t\x07 4 \n\n")
    source = FolderSource(tmp_path, 16)
    found = {item.name: item.captions for item in source.items}
    assert found == {
        "4.bmp": ("four 4",),
        "a/1.png": ("one",),
        "a/deep/2.JPG": ("two", "zwei"),
        "b/3.webp": ("three, with a comma", "drei"),
    }
    assert list(found) == sorted(found)


@pytest.mark.parametrize(
    ("raw", "caption"),
    [
        ("\ufeffcafé".encode(), "café"),
        ("赤い丸".encode("utf-16"), "赤い丸"),
        ("👩‍🚀 on the moon".encode(), "👩‍🚀 on the moon"),
    ],
)
def test_text_encodings(tmp_path: Path, raw: bytes, caption: str) -> None:
    put(tmp_path / "1.png")
    (tmp_path / "1.txt").write_bytes(raw)
    assert FolderSource(tmp_path, 16)[0]["caption"] == caption


def test_semicolons_of_spreadsheets(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    (tmp_path / "captions.csv").write_bytes("\ufefffile;caption\r\n1.png;Größe, rot\r\n".encode())
    assert FolderSource(tmp_path, 16)[0]["caption"] == "Größe, rot"


def test_broken_ones_are_counted_named_and_skipped(tmp_path: Path) -> None:
    folder(tmp_path, 4)
    (tmp_path / "text.png").write_text("I am no picture")
    (tmp_path / "text.txt").write_text("a caption")
    put(tmp_path / "alone.png")
    put(tmp_path / "void.png")
    (tmp_path / "void.txt").write_text(" \n\n")
    put(tmp_path / "latin.png")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    put(tmp_path / "book.png")
    (tmp_path / "book.txt").write_text("word " * 300_000)
    put(tmp_path / "tiny.png", 7, 60)
    (tmp_path / "tiny.txt").write_text("tiny")
    put(tmp_path / "small.png", 12, 200)
    (tmp_path / "small.txt").write_text("small and long")
    (tmp_path / "orphan.txt").write_text("no image")
    put(tmp_path / "empty_row.png")
    rows = [("gone.png", "gone"), ("empty_row.png", ""), ("0.png", "twice"), ("0.png", "twice")]
    (tmp_path / "captions.csv").write_text(
        "file,caption\n" + "".join(f"{file},{text}\n" for file, text in rows)
    )
    put(tmp_path / ".hidden.png")
    put(tmp_path / "__MACOSX" / "x.png")
    source = FolderSource(tmp_path, 16)
    report = source.check()
    assert {kind: sorted(names) for kind, names in report.problems.items()} == {
        captions.MISSING: ["alone.png"],
        captions.EMPTY: ["empty_row.png", "void.png"],
        captions.LONG_TEXT: ["book.png"],
        captions.NOT_TEXT: ["latin.png"],
        captions.SMALL: ["tiny.png"],
        captions.UNREADABLE: report.problems[captions.UNREADABLE],
        captions.ORPHANS: ["gone.png", "orphan.txt"],
    }
    assert [why.split()[0] for why in report.problems[captions.UNREADABLE]] == ["text.png"]
    assert report.notes == {
        captions.REPEATED: ["0.png"],
        captions.ENLARGED: ["small.png"],
        captions.ELONGATED: ["small.png"],
    }
    assert (report.images, report.usable) == (12, 5)
    assert source.items[0].captions == ("twice", "picture 0", "the number 0")
    text = str(report)
    assert "5 of 12 images usable" in text
    assert "skipped: 2 images whose caption is empty (" in text
    everything = FolderSource(tmp_path, 16, min_side=0)
    assert len(everything) == 6


def test_long_lists_are_shortened(tmp_path: Path) -> None:
    folder(tmp_path, 2)
    for number in range(9):
        put(tmp_path / f"x{number}.png")
    text = str(FolderSource(tmp_path, 16).check())
    assert "9 images without a caption (x0.png, x1.png, x2.png, ...)" in text


def bad_table(name: str, content: str | bytes) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        folder(root, 1)
        data = content if isinstance(content, bytes) else content.encode()
        (root / name).write_bytes(data)

    return make


def two_tables(root: Path) -> None:
    folder(root, 1)
    (root / "captions.csv").write_text("file,caption\n0.png,a\n")
    (root / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "b"}')


def only_images(root: Path) -> None:
    put(root / "1.png")


def only_text(root: Path) -> None:
    root.mkdir()
    (root / "1.txt").write_text("caption")


def only_broken(root: Path) -> None:
    root.mkdir()
    (root / "1.png").write_text("no image")
    (root / "1.txt").write_text("caption")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda root: None, "does not exist.*metadata.jsonl"),
        (lambda root: root.write_text("x"), "is not a folder"),
        (lambda root: root.mkdir(), "holds no images.*captions.csv"),
        (only_text, "holds no images"),
        (only_images, "no usable image with a caption, but 1 image without a caption .*beside"),
        (only_broken, "1 image that cannot be read "),
        (two_tables, "captions.csv and metadata.jsonl both name '0.png'"),
        (bad_table("captions.csv", "file,caption\n../x.png,a\n"), "line 2: '../x.png' is not"),
        (bad_table("captions.csv", "file,caption\n/etc/x.png,a\n"), "not a path inside"),
        (bad_table("captions.csv", "file,caption\nC:\\x.png,a\n"), "not a path inside"),
        (bad_table("captions.csv", "file,caption\na/../../x.png,a\n"), "not a path inside"),
        (bad_table("captions.csv", "picture,words\n0.png,a\n"), "names no file; it needs one of"),
        (bad_table("captions.csv", "file,words\n0.png,a\n"), "holds no caption"),
        (bad_table("captions.csv", "file,caption\n0.png,a, b\n"), "line 2 has more columns"),
        (bad_table("captions.csv", b"file,caption\n0.png,caf\xe9\n"), "line 2 is not UTF-8.*0xe9"),
        (bad_table("captions.csv", "file,caption\n0.png," + "x" * 200_000), "is not CSV"),
        (bad_table("metadata.jsonl", '{"file_name": "0.png", "text"'), "line 1 is not JSON"),
        (bad_table("metadata.jsonl", "[" * 100_000), "is not JSON"),
        (bad_table("metadata.jsonl", "[1]"), "not a JSON object"),
        (bad_table("metadata.jsonl", '{"file_name": 3, "text": "x"}'), "names no file"),
        (bad_table("metadata.jsonl", '{"file_name": "0.png", "text": 3}'), "neither a text"),
        (bad_table("metadata.jsonl", '{"file_name": "a\\u0000", "text": "x"}'), "not a path"),
    ],
)
def test_hopeless_folders_give_one_sentence(
    tmp_path: Path, make: Callable[[Path], Any], reason: str
) -> None:
    make(tmp_path / "data")
    with pytest.raises(ValueError, match=reason) as caught:
        FolderSource(tmp_path / "data", 16)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "data") in str(caught.value) or "both name" in str(caught.value)


def only_photos_of_phones(root: Path) -> None:
    root.mkdir()
    (root / "1.heic").write_bytes(b"")


def class_folders(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        put(root / name / "1.png")
        put(root / name / "2.png")


def one_file(name: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        root.mkdir()
        (root / name).write_bytes(b"x")

    return make


def stamps(root: Path) -> None:
    root.mkdir()
    Image.new("RGB", (7, 7)).save(root / "a.png")
    (root / "a.txt").write_text("a stamp")


def swallowing(root: Path) -> None:
    folder(root, 1)
    (root / "captions.csv").write_text('file,caption\n0.png,"a red star\n1.png,a blue heart\n')


def pipes(root: Path) -> None:
    put(root / "1.png")
    os.mkfifo(root / "1.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            class_folders,
            "4 images without a caption in folders that may be classes: --data.template",
        ),
        (
            one_file("data-000.tar"),
            "no images, but 1 archive; shards in .tar are read as wds:FOLDER",
        ),
        (one_file("train.parquet"), "1 file with a data set in one piece; Parquet .* hf:FOLDER"),
        (one_file("captions_train.json"), "1 file in JSON; COCO's captions are read as coco:"),
        (
            only_photos_of_phones,
            "no images, but 1 file in formats of pictures.*PNG or JPEG .1.heic",
        ),
        (stamps, "your images are 7 px: too small, give larger ones"),
        (swallowing, "captions.csv, line 2 is not CSV"),
        (
            pipes,
            "1 image without a caption .1.png.; 1 file of other kinds: pipes, devices or sockets",
        ),
    ],
)
def test_what_is_there_and_cannot_be_used_is_named(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    make(tmp_path / "data")
    with pytest.raises(ValueError, match=reason):
        FolderSource(tmp_path / "data", 16)


def test_a_size_that_is_too_large_is_answered_with_one_that_fits(tmp_path: Path) -> None:
    root, side = folder(tmp_path / "data", 3), 32
    with pytest.raises(ValueError, match=rf"your images are {side} px: --data.size {side} or"):
        FolderSource(root, 4 * side)
    assert f"are {side} px: --data.size" in str(FolderSource(root, side + 8).check())
    assert "--data.size" not in str(FolderSource(root, side).check())
    put(root / "large.png", 4 * side, 4 * side)
    (root / "large.txt").write_text("large")
    assert "your images are mostly" in str(FolderSource(root, side + 8).check())


def test_reports_hold_no_control_characters_and_no_long_names(tmp_path: Path) -> None:
    root = folder(tmp_path / "data\x1b[2J", 2)
    put(root / "red\x1b[31m\n.png")
    (root / "bad\x07.png").write_text("no image")
    (root / "bad\x07.txt").write_text("caption")
    rows = "".join(f'{{"file": "{k * 50_000}.png", "text": "x"}}\n' for k in "abcd")
    (root / "metadata.jsonl").write_text(rows)
    text = str(FolderSource(root, 16).check(decode=True))
    assert all(line.isprintable() for line in text.split("\n"))
    assert r"red\x1b[31m\n.png" in text
    assert r"bad\x07.png is not an image" in text
    assert len(text) < 2000


def test_links_out_of_the_folder_are_said(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere", 3)
    folder(tmp_path / "data", 1)
    (tmp_path / "data" / "away").symlink_to(tmp_path / "elsewhere")
    source = FolderSource(tmp_path / "data", 16)
    assert len(source) == 4
    assert "6 files outside the folder, through links (away/0.png" in str(source.check())


def test_an_image_may_have_very_many_captions(tmp_path: Path) -> None:
    put(tmp_path / "0.png")
    row = {"file_name": "0.png", "text": [f"{number}" for number in range(60_000)]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    source = FolderSource(tmp_path, 16)
    assert source.check().captions == 60_000
    assert sum(1 for _ in source.captions()) == 60_000


PICTURES: dict[str, tuple[Callable[[Image.Image], Image.Image], dict[str, Any], str]] = {
    "deep.png": (
        lambda i: Image.fromarray(np.asarray(i.convert("L")).astype(np.uint16) * 257),
        {},
        "",
    ),
    "ink.jpg": (lambda i: i.convert("CMYK"), {}, ""),
    "clear.png": (lambda i: i.convert("P"), {"transparency": 3}, ""),
    "moving.gif": (
        lambda i: i,
        {"save_all": True, "append_images": [Image.new("RGB", (40, 32))]},
        "",
    ),
    "moving.apng": (
        lambda i: i,
        {"save_all": True, "append_images": [Image.new("RGB", (40, 32))]},
        "",
    ),
    "moving.webp": (
        lambda i: i,
        {"save_all": True, "append_images": [Image.new("RGB", (40, 32))]},
        "",
    ),
    "pages.tiff": (
        lambda i: i,
        {"save_all": True, "append_images": [Image.new("RGB", (40, 32))]},
        "",
    ),
    "a.jfif": (lambda i: i, {}, ""),
    "really.jpg": (lambda i: i, {"format": "PNG"}, ""),
    "bits.png": (lambda i: i.convert("1"), {}, ""),
    "real.tif": (lambda i: Image.fromarray(np.asarray(i.convert("L")) / np.float32(255)), {}, ""),
    "one.png": (lambda i: i.resize((1, 1)), {}, captions.SMALL),
    "nan.tif": (
        lambda i: Image.fromarray(np.full((32, 40), np.nan, np.float32)),
        {},
        captions.UNREADABLE,
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_every_kind(tmp_path: Path, name: str) -> None:
    make, options, problem = PICTURES[name]
    folder(tmp_path, 1)
    noise = np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    make(Image.fromarray(noise)).save(tmp_path / name, **options)
    (tmp_path / f"{Path(name).stem}.txt").write_text("this one")
    source = FolderSource(tmp_path, 16)
    assert list(source.check(decode=True).problems) == ([problem] if problem else [])
    if not problem:
        (number,) = (n for n, item in enumerate(source.items) if item.name == name)
        sample = source[number]
        assert sample["caption"] == "this one"
        assert sample["image"].float().std() > 10  # not clipped, not the second frame


def test_half_characters_and_null_captions_in_json(tmp_path: Path) -> None:
    folder(tmp_path, 1)
    put(tmp_path / "n.png")
    rows = '{"file_name": "0.png", "text": "a\\ud800b"}\n{"file_name": "n.png", "text": null}\n'
    (tmp_path / "metadata.jsonl").write_text(rows)
    source = FolderSource(tmp_path, 16)
    assert source.items[0].captions[0] == "a?b"
    assert source.check().problems == {captions.EMPTY: ["n.png"]}


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    folder(tmp_path / "data", 2)
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    assert len(FolderSource(tmp_path / "data", 16)) == 2


def test_samples_depend_on_seed_and_index_alone(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / f"{number}.png", 96, 32, number)
        (tmp_path / f"{number}.txt").write_text("one\ntwo\nthree\nfour\n")
    first, again = (FolderSource(tmp_path, 16, seed=5) for _ in range(2))
    other = FolderSource(tmp_path, 16, seed=6)
    for index in (7, 0, 1, 7, 10**9):
        assert torch.equal(first[index]["image"], again[index]["image"])
        assert first[index]["caption"] == again[index]["caption"]
    epochs = [first[1 + 3 * epoch] for epoch in range(12)]  # one image, twelve epochs
    assert len({sample["caption"] for sample in epochs}) == 4
    assert len({sample["image"].numpy().tobytes() for sample in epochs}) > 6
    assert any(not torch.equal(first[i]["image"], other[i]["image"]) for i in range(6))
    centre = FolderSource(tmp_path, 16, seed=5, crop="centre")
    assert torch.equal(centre[1]["image"], centre[4]["image"])
    with pytest.raises(IndexError):
        first[-1]


def test_fingerprint_follows_content_and_settings(tmp_path: Path) -> None:
    folder(tmp_path, 3)
    before = FolderSource(tmp_path, 16).fingerprint()
    assert FolderSource(tmp_path, 16).fingerprint() == before
    assert FolderSource(tmp_path, 16, seed=1).fingerprint() != before
    (tmp_path / "0.txt").write_text("another caption")
    changed = FolderSource(tmp_path, 16).fingerprint()
    assert changed != before
    put(tmp_path / "9.png")
    assert FolderSource(tmp_path, 16).fingerprint() == changed  # without caption, not used
    (tmp_path / "9.txt").write_text("nine")
    assert FolderSource(tmp_path, 16).fingerprint() != changed


def test_an_image_that_breaks_later_is_replaced(tmp_path: Path) -> None:
    folder(tmp_path, 5)
    whole = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])  # the header is fine
    source, again = FolderSource(tmp_path, 16), FolderSource(tmp_path, 16)
    assert len(source) == 5
    sample = source[3]
    assert torch.equal(sample["image"], again[3]["image"])
    assert sample["caption"] != "picture 3"
    assert "3.png is damaged" in sample["unreadable"][0]
    assert "unreadable" not in source[2]
    deep = source.check(decode=True)
    assert deep.usable == 4
    assert "3.png" in deep.problems[captions.UNREADABLE][0]
    assert source.check().usable == 5  # the first report is left as it was
    for file in tmp_path.glob("*.png"):
        file.unlink()
    with pytest.raises(ValueError, match=r"in a row cannot be decoded.*still there"):
        source[0]


def test_held_out_images_stay_held_out(tmp_path: Path) -> None:
    folder(tmp_path, 40)

    def names(split: str) -> set[str]:
        return {item.name for item in FolderSource(tmp_path, 16, split=split, held_out=0.3).items}

    train, held_out = names("train"), names("held-out")
    report = FolderSource(tmp_path, 16, split="train", held_out=0.3).check()
    assert f"held out: {len(held_out)} of 40 images" in str(report)
    assert not train & held_out
    assert train | held_out == names("all")
    assert 4 < len(held_out) < 20
    folder(tmp_path, 60)
    assert train <= names("train")
    assert held_out <= names("held-out")
    assert len(FolderSource(tmp_path, 16, split="train")) == 60
    with pytest.raises(ValueError, match="held_out is 0"):
        FolderSource(tmp_path, 16, split="held-out")
    with pytest.raises(ValueError, match="held_out is 1"):
        FolderSource(tmp_path, 16, held_out=1.0)
    with pytest.raises(ValueError, match="is empty"):
        FolderSource(tmp_path, 16, split="held-out", held_out=1e-9)


def test_opening_is_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a folder reads headers only: no pixel is decoded."""
    folder(tmp_path, 3)
    Image.init()  # some of Pillow's plugins draw when they are first imported
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded pixels"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded pixels"))
    assert len(FolderSource(tmp_path, 16)) == 3


def test_captions_can_be_had_without_images(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"one {number}\ntwo {number}\nthree {number}")
    folder = FolderSource(tmp_path, 16)
    assert [folder.caption(i) for i in range(9)] == [folder[i]["caption"] for i in range(9)]


def test_class_folders_get_captions_of_their_names(tmp_path: Path) -> None:
    class_folders(tmp_path)
    put(tmp_path / "more" / "black_cats" / "Deep.PNG", seed=9)
    put(tmp_path / "top.png")
    put(tmp_path / "cats" / "own.png")
    (tmp_path / "cats" / "own.txt").write_text("a caption of its own")
    source = FolderSource(tmp_path, 16, template="a photo of {}")
    found = {item.name: item.captions for item in source.items}
    assert found["more/black_cats/Deep.PNG"] == ("a photo of black cats",)
    assert found["cats/own.png"] == ("a caption of its own",)
    assert source.report.problems == {captions.MISSING: ["top.png"]}
    assert source.fingerprint() != FolderSource(tmp_path, 16, template="{}").fingerprint()


def test_tables_of_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    put(tmp_path / "1.png")
    put(tmp_path / "d" / "2.png")
    rows = {
        "File_Name": ["1.png", "d\\2.png", "gone.png"],
        "Text": ["one", None, "x"],
        "n": [1, 2, 3],
    }
    pq.write_table(pa.table(rows), tmp_path / "Metadata.parquet")
    source = FolderSource(tmp_path, 16)
    assert {item.name: item.captions for item in source.items} == {"1.png": ("one",)}
    assert source.report.problems == {captions.ORPHANS: ["gone.png"], captions.EMPTY: ["d/2.png"]}
    pq.write_table(pa.table({"file_name": ["1.png"], "text": [7]}), tmp_path / "Metadata.parquet")
    with pytest.raises(ValueError, match=r"Metadata.parquet, line 1: text is neither a text"):
        FolderSource(tmp_path, 16)
    (tmp_path / "Metadata.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="no whole Parquet file"):
        FolderSource(tmp_path, 16)
