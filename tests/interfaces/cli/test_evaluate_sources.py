"""`unclip evaluate` on every kind of data that the registry knows, and by several processes."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.conftest import captioned_folder
from tests.interfaces.cli.test_cli import Capture, refused
from unclip.data.registry import FORMATS
from unclip.interfaces.cli import main

COUNT = 8


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same images in every format: kind → the name of the data."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    root = tmp_path_factory.mktemp("everywhere")
    folder = captioned_folder(root / "images", COUNT)
    files = sorted(folder.glob("*.png"))
    captions = [file.with_suffix(".txt").read_text().strip() for file in files]
    with tarfile.open(root / "shard.tar", "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    table = pa.table({"image": images, "text": captions})
    pq.write_table(table, root / "table.parquet")
    with (
        pa.OSFile(str(root / "table.arrow"), "wb") as out,
        pa.ipc.new_stream(out, table.schema) as stream,
    ):
        stream.write_table(table)
    listed = {
        "images": [{"id": k, "file_name": file.name} for k, file in enumerate(files)],
        "annotations": [{"image_id": k, "caption": text} for k, text in enumerate(captions)],
    }
    (root / "coco.json").write_text(json.dumps(listed))
    return {
        "folder": str(folder),
        "wds": f"wds:{root / 'shard.tar'}",
        "hf": f"hf:{root / 'table.parquet'}",
        "arrow": f"hf:{root / 'table.arrow'}",
        "coco": f"coco:{root / 'coco.json'}:{folder}",
        "mix": f"mix:3 {folder} + 1 wds:{root / 'shard.tar'}",
        "emoji": "emoji:shapes",
    }


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_kind_of_data_is_measured(
    everywhere: dict[str, str], tiny_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    """With the same numbers, where the order of names is the same."""
    assert set(FORMATS) <= set(everywhere)
    found = {}
    for kind, data in everywhere.items():
        words = ["evaluate", "fid", "--model", str(tiny_model), "--data", data, "--size", "16"]
        words += ["--steps", "fast", "-n", "4", "-o", str(tmp_path / f"{kind}.json")]
        assert main(words) == 0, capsys.readouterr().err
        found[kind] = json.loads((tmp_path / f"{kind}.json").read_text())
    capsys.readouterr()
    assert found["folder"]["of"] == COUNT
    assert "drawn" in found["emoji"]["numbers"][0]["under"]["crop"]
    for kind in ("wds", "hf", "arrow", "coco"):
        assert found[kind]["fid"] == found["folder"]["fid"], kind


def test_processes_share_the_images_and_the_first_measures(
    everywhere: dict[str, str], tiny_model: Path, tmp_path: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    words = ["evaluate", "fid", "--model", str(tiny_model), "--data", everywhere["folder"]]
    words += ["--size", "16", "--steps", "fast", "-n", "3"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(words) == 0
    assert capsys.readouterr().out == ""
    assert len(list((tmp_path / "out" / "generated").glob("*/*.png"))) == 1
    monkeypatch.setenv("RANK", "0")
    assert main(words) == 0
    said = capsys.readouterr()
    assert "1 of 3 images are there" in said.err
    assert "FID" in said.out


def test_data_that_cannot_be_measured_is_one_sentence(
    tiny_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "empty").mkdir()
    bare = captioned_folder(tmp_path / "bare", 4)
    for text in bare.glob("*.txt"):
        text.unlink()
    words = ["evaluate", "diversity", "--model", str(tiny_model), "--data"]
    assert "holds no images" in refused([*words, str(tmp_path / "empty")], capsys)
    assert "without a caption" in refused([*words, str(bare)], capsys)
    one = captioned_folder(tmp_path / "one", 1)
    assert "take 2 images or more" in refused([*words, str(one)], capsys)
    with tarfile.open(tmp_path / "empty.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("nothing.txt"), io.BytesIO())
    assert "empty.tar" in refused([*words, f"wds:{tmp_path / 'empty.tar'}"], capsys)
