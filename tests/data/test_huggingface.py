"""Data sets as `datasets` saves them: equal to the same images in a folder; broken ones."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.test_webdataset import members, opened, picture, refused
from unclip.data import arrow, captions
from unclip.data.batches import Order, batches
from unclip.data.registry import open_source

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def table(numbers: range, **more: Any) -> Any:
    """Images and captions as in `members`."""
    pairs = dict(members(numbers))
    names = [f"{number:04d}" for number in numbers]
    images = [{"bytes": pairs[f"{name}.png"], "path": f"{name}.png"} for name in names]
    texts = [pairs[f"{name}.txt"].decode().split("\n")[:2] for name in names]
    return pa.table({"image": images, "text": texts, **more})


def write_arrow(path: Path, content: Any, rows: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, content.schema) as writer:
        writer.write_table(content, max_chunksize=rows)
    return path


def saved(root: Path) -> Path:
    """What `Dataset.save_to_disk` writes."""
    write_arrow(root / "data-00000-of-00002.arrow", table(range(7)))
    write_arrow(root / "data-00001-of-00002.arrow", table(range(7, 20)))
    files = [{"filename": f"data-{number:05d}-of-00002.arrow"} for number in range(2)]
    (root / "state.json").write_text(json.dumps({"_data_files": files}))
    (root / "dataset_info.json").write_text("{}")
    return root


def test_saved_parquet_and_folder_give_equal_batches(tmp_path: Path) -> None:
    for name, content in members(range(20)):
        (tmp_path / "f").mkdir(exist_ok=True)
        (tmp_path / "f" / name).write_bytes(content)
    (tmp_path / "p").mkdir()
    pq.write_table(table(range(7)), tmp_path / "p" / "train-00000-of-00002.parquet")
    pq.write_table(table(range(7, 20)), tmp_path / "p" / "train-00001-of-00002.parquet")
    pq.write_table(table(range(20, 22)), tmp_path / "p" / "test-00000-of-00001.parquet")
    names = [str(tmp_path / "f"), f"hf:{saved(tmp_path / 's')}", f"hf:{tmp_path}/p"]
    names += [f"hf:{tmp_path}/p/train-{{00000..00001}}-of-00002.parquet", f"hf:{tmp_path}/f"]
    for split in ("train", "held-out"):
        sources = [open_source(name, size=16, split=split, held_out=0.3) for name in names]
        streams = [batches(one, Order.of(one), 5) for one in sources]
        for first, *others in islice(zip(*streams, strict=True), 5):
            for other in others:
                assert other["captions"] == first["captions"]
                assert torch.equal(other["images"], first["images"])
        for stream in streams:
            stream.close()
    assert len(open_source(f"hf:{tmp_path}/p:test", size=16)) == 2  # type: ignore[arg-type]
    assert "no split 'val'; it has: test, train" in refused(f"hf:{tmp_path}/p:val")
    # Arrow lies on the disk as it is read; only Parquet is unpacked.
    assert not list((tmp_path / "s").rglob("*.images"))
    assert len(list((tmp_path / "p").rglob("*.images"))) == 3


def test_classes_by_number_need_a_template(tmp_path: Path) -> None:
    features = {"label": {"_type": "ClassLabel", "names": ["cat", "black_dog"]}}
    content = table(range(3), label=pa.array([0, 1, None])).drop_columns(["text"])
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    write_arrow(tmp_path / "a.arrow", content.replace_schema_metadata(about))
    assert "--data.template" in refused(f"hf:{tmp_path}/a.arrow")
    source = opened(f"hf:{tmp_path}/a.arrow", template="a photo of a {}")
    assert list(source.captions()) == ["a photo of a cat", "a photo of a black dog"]
    assert list(source.check().problems) == [captions.EMPTY]


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.png").write_bytes(picture(9))
    images = [
        {"bytes": picture(0), "path": "d/0.png"},
        {"bytes": None, "path": str(tmp_path / "elsewhere.png")},
        {"bytes": None, "path": "/nowhere.png"},
        {"bytes": b"no picture", "path": None},
        {"bytes": picture(1), "path": "1.png"},
        None,
    ]
    content = pa.table({"Image": images, "caption": ["a", "b", "c", "d", None, "f"]})
    write_arrow(tmp_path / "a.arrow", content)
    source = opened(f"hf:{tmp_path}/a.arrow")
    names = [source.pictures.name(number) for number in range(len(source))]
    assert names == ["a.arrow/d/0.png", "a.arrow/elsewhere.png"]
    problems = source.check(decode=True).problems
    assert list(problems[captions.EMPTY]) == ["a.arrow/1.png"]
    assert list(problems[arrow.ABSENT]) == ["a.arrow/nowhere.png", "a.arrow/a/00000005"]
    assert len(problems[captions.UNREADABLE]) == 1


def test_what_is_no_data_set_is_one_sentence(tmp_path: Path) -> None:
    assert "names no data" in refused("hf:")
    assert "named owner/name" in refused("hf:nowhere")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    assert "no whole parquet file" in refused(f"hf:{tmp_path}/a.parquet")
    (tmp_path / "a.arrow").write_bytes(b"no arrow at all")
    assert "no whole arrow file" in refused(f"hf:{tmp_path}/a.arrow")
    (tmp_path / "b.arrow").write_bytes(b"")
    assert "b.arrow is empty" in refused(f"hf:{tmp_path}/b.arrow")
    (tmp_path / "a.csv").write_text("x")
    assert "is neither .parquet nor .arrow" in refused(f"hf:{tmp_path}/a.csv")
    assert "does not exist" in refused(f"hf:{tmp_path}/{{0..1}}.parquet")
    for content, reason in (
        ({"text": ["a"]}, "no column with the bytes of images"),
        ({"image": [b"a"], "n": [1]}, "no column of captions"),
        ({"image": [b"a"], "text": [1]}, "text holds int64"),
        ({"image": ["a.png"], "text": ["a"]}, "no column with the bytes of images"),
    ):
        pq.write_table(pa.table(content), tmp_path / "c.parquet")
        assert reason in refused(f"hf:{tmp_path}/c.parquet")


def test_a_data_set_that_the_library_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    for name, content in members(range(4)):
        (tmp_path / name).write_bytes(content)
    rows = {"image": [str(tmp_path / f"{n:04d}.png") for n in range(4)], "text": list("abcd")}
    data = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": data, "test": data.select([3, 1])}).save_to_disk(tmp_path / "s")
    source = opened(f"hf:{tmp_path}/s")
    assert [source[number]["caption"] for number in range(4)] == list("abcd")
    assert [one["caption"] for one in (opened(f"hf:{tmp_path}/s:test")[n] for n in (0, 1))] == [
        "d", "b",
    ]  # fmt: skip
    assert "no split 'val'; it has: train, test" in refused(f"hf:{tmp_path}/s:val")
    assert "cannot be opened" in refused("hf:nobody/nothing")  # offline, and not in the cache
