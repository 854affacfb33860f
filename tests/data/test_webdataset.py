"""Tar shards as a source: equal to the same images in a folder, and every kind of broken shard."""

import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.interfaces.cli.test_cli import Capture
from tests.tiny import tiny_recipe
from unclip.data import captions, shard_index, tar_shard
from unclip.data.batches import Order, batches
from unclip.data.pictures import PictureSource
from unclip.data.registry import open_source
from unclip.interfaces.cli import main
from unclip.stages.catalogue import STAGES
from unclip.training.job import Folders
from unclip.training.start import start


def picture(seed: int, width: int = 40, height: int = 32, kind: str = "PNG") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3))
    raw = io.BytesIO()
    Image.fromarray((noise + 10 * (seed % 15)).astype(np.uint8)).save(raw, kind)
    return raw.getvalue()


def shard(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def members(numbers: range) -> list[tuple[str, bytes]]:
    pairs = [
        ((f"{n:04d}.png", picture(n)), (f"{n:04d}.txt", f"picture {n}\nnumber {n}\n".encode()))
        for n in numbers
    ]
    return [one for pair in pairs for one in pair]


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three shards of 7, 6 and 7 images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ends = (0, 7, 13, 20)
    for number in range(3):
        shard(tmp_path / "s" / f"{number}.tar", members(range(ends[number], ends[number + 1])))
    return tmp_path / "s"


def opened(name: str, **more: object) -> PictureSource:
    source = open_source(name, **{"size": 16, **more})  # type: ignore[arg-type]
    assert isinstance(source, PictureSource)
    return source


def refused(name: str) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        opened(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_equal_to_the_same_images_in_a_folder(shards: Path, tmp_path: Path) -> None:
    for name, content in members(range(20)):
        (tmp_path / "f").mkdir(exist_ok=True)
        (tmp_path / "f" / name).write_bytes(content)
    for split in ("train", "held-out"):
        more = {"size": 16, "split": split, "held_out": 0.3}
        ours = open_source(f"wds:{shards}/{{0..2}}.tar", **more)  # type: ignore[arg-type]
        theirs = open_source(str(tmp_path / "f"), **more)  # type: ignore[arg-type]
        pairs = [batches(one, Order.of(one), 5) for one in (ours, theirs)]
        for one, other in islice(zip(*pairs, strict=True), 9):
            assert one["captions"] == other["captions"]
            assert torch.equal(one["images"], other["images"])
        for pair in pairs:
            pair.close()


def test_workers_and_pickles_change_nothing(shards: Path) -> None:
    source = opened(f"wds:{shards}")
    order = Order.of(source)
    alone = list(islice(batches(source, order, 4), 6))
    loaded = batches(pickle.loads(pickle.dumps(source)), order, 4, num_workers=2)
    for one, other in zip(alone, islice(loaded, 6), strict=True):
        assert torch.equal(one["images"], other["images"])
        assert one["captions"] == other["captions"]
    loaded.close()


def test_captions_of_json_and_of_several_kinds(tmp_path: Path) -> None:
    image = picture(0)
    found = {
        "a.JPG": ("a.json", {"Caption": "one", "url": "x"}, ["one"]),
        "d/b.webp": ("d/b.json", {"captions": ["two", "zwei", "two"]}, ["two", "zwei"]),
        "c.left.png": ("c.txt", None, ["three"]),
    }
    wrong = {
        "list": [1, 2],
        "number": {"text": 7},
        "none": {"url": "x"},
        "numbers": {"text": ["a", 7]},
    }
    parts = []
    for name, (beside, row, texts) in found.items():
        raw = texts[0] if row is None else json.dumps(row)
        parts += [(name, image), (beside, raw.encode())]
    for name, content in wrong.items():
        parts += [(f"{name}.png", image), (f"{name}.json", json.dumps(content).encode())]
    parts += [("bad.png", image), ("bad.json", b"{"), ("void.png", image), ("void.txt", b" \n")]
    shard(tmp_path / "s.tar", parts)
    source = opened(f"wds:{tmp_path}/s.tar")
    assert {source.pictures.name(n): source.pictures.captions(n) for n in range(len(source))} == {
        f"s.tar/{name}": texts for name, (_, _, texts) in found.items()
    }
    problems = source.check().problems
    assert list(problems[tar_shard.BAD_JSON]) == [
        f"s.tar/{name}.png" for name in sorted((*wrong, "bad"))
    ]
    assert list(problems[captions.EMPTY]) == ["s.tar/void.png"]


def test_what_is_broken_is_counted_and_named(tmp_path: Path) -> None:
    parts = [
        *members(range(3)),
        ("0001.png", picture(9)),  # again
        ("alone.png", picture(1)),
        ("orphan.txt", b"no image"),
        ("text.png", b"I am no picture"),
        ("text.txt", b"a caption"),
        ("apart.png", picture(4)),
        ("0009.png", picture(5)),
        ("0009.txt", b"nine"),
        ("apart.txt", b"far away"),
        ("small.png", picture(6, 7, 60)),
        ("small.txt", b"small"),
        ("latin.png", picture(7)),
        ("latin.txt", "café".encode("latin-1")),
        ("._0001.png", b"left by a system"),
        ("more.npy", b"something else"),
    ]
    shard(tmp_path / "s.tar", parts)
    report = opened(f"wds:{tmp_path}").check()
    assert (report.images, report.usable) == (9, 5)
    names = {kind: list(names) for kind, names in report.problems.items()}
    unreadable = names.pop(captions.UNREADABLE)
    assert "s.tar/text.png" in unreadable[0]
    assert names == {
        tar_shard.TWICE: ["s.tar/0001.png"],
        captions.MISSING: ["s.tar/alone.png"],
        captions.ORPHANS: ["s.tar/orphan.txt"],
        captions.SMALL: ["s.tar/small.png"],
        captions.NOT_TEXT: ["s.tar/latin.png"],
        "other files": ["s.tar/more.npy"],
    }
    assert list(report.notes[tar_shard.APART]) == ["s.tar/apart.png"]


def test_what_cannot_be_a_shard_is_one_sentence(shards: Path, tmp_path: Path) -> None:
    assert "2 of 5 shards do not exist" in refused(f"wds:{shards}/{{0..4}}.tar")
    assert "never closed" in refused(f"wds:{shards}/{{0..4.tar")
    assert "is an address" in refused("wds:s3://bucket/{0..4}.tar")
    assert "names no shards" in refused("wds:")
    assert "twice" in refused(f"wds:{shards}/{{0,0}}.tar")
    (tmp_path / "e").mkdir()
    assert "holds no .tar" in refused(f"wds:{tmp_path}/e")
    (tmp_path / "e" / "0.tar.gz").write_bytes(gzip.compress((shards / "0.tar").read_bytes()))
    assert "0.tar.gz is compressed" in refused(f"wds:{tmp_path}/e")
    (tmp_path / "e" / "0.tar.gz").rename(tmp_path / "e" / "0.tar")
    assert "gunzip" in refused(f"wds:{tmp_path}/e")
    (tmp_path / "e" / "0.tar").write_bytes(b"")
    assert "is empty" in refused(f"wds:{tmp_path}/e")
    (tmp_path / "e" / "0.tar").write_bytes(b"no tar" * 1000)
    assert "is no tar archive" in refused(f"wds:{tmp_path}/e")
    (tmp_path / "e" / "0.tar").write_bytes(bytes(10240))
    assert "holds no images" in refused(f"wds:{tmp_path}/e")
    os.mkfifo(tmp_path / "e" / "1.tar")
    assert "no regular file" in refused(f"wds:{tmp_path}/e/1.tar")


def test_a_shard_that_was_cut_short_loses_its_rest(shards: Path) -> None:
    last = shards / "2.tar"
    raw = last.read_bytes()
    last.write_bytes(raw[: raw.index(b"0016.png")])  # between two members
    report = opened(f"wds:{shards}/{{0..2}}.tar").check()
    assert list(report.notes[tar_shard.UNENDED]) == ["2.tar"]
    (shards / shard_index.FOLDER / "2.tar.safetensors").unlink()
    last.write_bytes(raw[: raw.index(b"0016.png") + 512 + 50])  # within an image
    report = opened(f"wds:{shards}").check()
    assert 13 < report.usable < 20
    (lost,) = report.problems[tar_shard.DAMAGED]
    assert lost.startswith("2.tar/")
    assert "the file ends" in lost


def test_shards_that_change_after_they_were_indexed_are_refused_by_name(
    shards: Path, capsys: Capture
) -> None:
    name = f"wds:{shards}"
    before = opened(name)
    raw = (shards / "1.tar").read_bytes()
    (shards / "1.tar").write_bytes(raw[:5000])
    assert "1.tar was changed since it was indexed" in refused(name)
    with pytest.raises(ValueError, match="shorter"):
        before.pictures.image(12)
    assert before[12]["unreadable"][0].endswith("1.tar is shorter than when it was indexed")
    (shards / "1.tar").unlink()
    assert "1.tar is gone since it was indexed" in refused(name)
    assert "1.tar" in refused(f"wds:{shards}/{{0..2}}.tar")
    assert main(["data", "index", name, "--workers", "1"]) == 0
    assert "14 of 14 images usable" in capsys.readouterr().out
    after = opened(name)
    assert len(after) == 14
    assert after.fingerprint() != before.fingerprint()
    (shards / "1.tar").write_bytes(raw)
    assert opened(name).fingerprint() == before.fingerprint()


def test_the_index_is_made_once_and_where_it_can_be(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, cached = shard_index.places(shards / "0.tar")
    fingerprint = opened(f"wds:{shards}").fingerprint()
    assert beside.is_file()
    assert not cached.exists()
    with monkeypatch.context() as patch:
        patch.setattr(shard_index, "_BUILDERS", {})
        assert opened(f"wds:{shards}").fingerprint() == fingerprint
    for number in range(3):
        (shards / shard_index.FOLDER / f"{number}.tar.safetensors").write_bytes(b"damaged")
    assert opened(f"wds:{shards}").fingerprint() == fingerprint
    for file in beside.parent.iterdir():
        file.unlink()
    beside.parent.rmdir()
    beside.parent.write_text("no folder")  # so nothing can be written beside the shards
    assert opened(f"wds:{shards}").fingerprint() == fingerprint
    assert cached.is_file()


def test_ranks_share_the_same_steps(shards: Path) -> None:
    source = opened(f"wds:{shards}", split="train", held_out=0.2)
    order = Order.of(source)
    alone = [batch["captions"] for batch in islice(batches(source, order, 6), 5)]
    for world_size in (2, 3):
        parts = [
            [
                batch["captions"]
                for batch in islice(batches(source, order, 6, 0, rank, world_size), 5)
            ]
            for rank in range(world_size)
        ]
        assert [list(chain(*step)) for step in zip(*parts, strict=True)] == alone


def test_training_evaluation_and_a_shard_that_goes_between_stop_and_resume(
    shards: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = {"source": f"wds:{shards}", "world": {}, "size": 32, "held_out": 0.3}
    model = tmp_path / "model"
    for steps, resume in ((2, False), (4, True)):
        recipe = tiny_recipe("clip", data=data, training={"steps": steps, "batch_size": 8})
        folders = Folders(model, tmp_path / "run", resume=resume)
        assert start(STAGES["clip"], recipe, folders, "cpu") == 0
    words = ["evaluate", "clip", "--model", str(model), "--data", f"wds:{shards}", "-n", "2"]
    assert main([*words, "--split", "train"]) == 0
    assert "20 of 20 images usable" in capsys.readouterr().out
    (shards / "1.tar").rename(tmp_path / "elsewhere.tar")
    with pytest.raises(ValueError, match=r"1\.tar is gone since it was indexed"):
        start(STAGES["clip"], recipe, folders, "cpu")
    assert main(["data", "index", f"wds:{shards}", "--workers", "1"]) == 0
    with pytest.raises(ValueError, match="data"):  # another number may be another sample
        start(STAGES["clip"], recipe, folders, "cpu")
