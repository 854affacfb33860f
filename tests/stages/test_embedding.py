"""Shards of embeddings: the same bytes from any number of processes, after kills and damage."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import captioned_folder
from tests.interfaces.cli.test_cli import Capture, refused
from unclip.data.embeddings import INDEX, Embeddings
from unclip.interfaces.cli import main
from unclip.pixels import to_signed
from unclip.stages.conditioning import FrozenCLIP
from unclip.storage.folder import ModelFolder


def words(source: Path | str, out: Path, model: Path, *more: str) -> list[str]:
    return ["embed", str(source), "-o", str(out), "--model", str(model), "--precision", "fp32",
            "--images-per-shard", "5", "--batch-size", "3", *more]  # fmt: skip


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_what_clip_says_of_every_image_and_caption(
    tiny_model: Path, captioned: Path, tmp_path: Path
) -> None:
    (captioned / "000.txt").write_text("a star\na red star\n")
    (captioned / "001.png").write_bytes((captioned / "001.png").read_bytes()[:200])
    assert main(words(captioned, tmp_path / "e", tiny_model, "--hidden-states")) == 0
    store = Embeddings.open(tmp_path / "e")
    assert (store.plan.images, store.plan.captions, store.plan.shards) == (24, 25, 5)
    assert [store.is_readable(row) for row in range(3)] == [True, False, True]
    clip = FrozenCLIP.load(ModelFolder(tiny_model), torch.float32)
    store.check_clip(clip.fingerprints(), tiny_model)
    from unclip.data.registry import open_source

    source = open_source(str(captioned), size=store.plan.size, split="all")
    for row, caption in ((0, 0), (0, 1), (13, 0)):
        found = store.row(row, caption)
        text = clip.text([source.pictures.captions(row)[caption]])  # type: ignore[union-attr]
        image = to_signed(source.picture(row)[None])  # type: ignore[union-attr]
        torch.testing.assert_close(found["z_i"], clip.image(image)[0])
        torch.testing.assert_close(found["z_t"], text.z_t[0])
        torch.testing.assert_close(found["hidden"], text.hidden[0])
        assert found["ids"].tolist() == text.ids[0].tolist()


def test_several_processes_kills_and_damage_change_no_byte(
    tiny_model: Path, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:  # fmt: skip
    assert main(words(captioned, tmp_path / "one", tiny_model)) == 0
    wanted = content(tmp_path / "one")
    two = tmp_path / "two"
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert main(words(captioned, two, tiny_model)) == 0
        assert len(list(two.glob("0*.safetensors"))) == (2 if rank == "1" else 5)
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert content(two) == wanted
    (two / "00001.safetensors").unlink()
    (two / "pictures-0.safetensors").unlink()
    raw = bytearray((two / "00003.safetensors").read_bytes())
    raw[-3] ^= 1
    (two / "00003.safetensors").write_bytes(raw)
    capsys.readouterr()
    assert main(words(captioned, two, tiny_model)) == 0
    said = capsys.readouterr()
    assert "2 shards written" in said.out
    assert "(3 were there)" in said.out
    assert "00003.safetensors is damaged" in said.err
    assert content(two) == wanted


def test_a_killed_one_goes_on(tiny_model: Path, captioned: Path, tmp_path: Path) -> None:
    assert main(words(captioned, tmp_path / "one", tiny_model)) == 0
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "unclip", *words(captioned, out, tiny_model)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while running.poll() is None and not (out / INDEX).exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert main(words(captioned, out, tiny_model)) == 0
    assert content(out) == content(tmp_path / "one")


def test_a_folder_is_for_one_thing(
    tiny_model: Path, captioned: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "e"
    assert main(words(captioned, out, tiny_model)) == 0
    before = content(out)
    for more, sentence in (
        (("--size", "16"), "of images of another size"),
        (("--hidden-states",), "with or without captions' hidden states"),
        (("--images-per-shard", "6"), "in shards of another size"),
        (("--precision", "bf16"), "computed in another precision"),
    ):
        assert sentence in refused(words(captioned, out, tiny_model, *more), capsys)
    (captioned / "003.txt").write_text("something else")
    assert "of other data, or of a state" in refused(words(captioned, out, tiny_model), capsys)
    assert content(out) == before
    images = captioned_folder(tmp_path / "others", 3)
    assert "has something else in it" in refused(words(images, images, tiny_model), capsys)
    for source, sentence in (
        ("emoji:shapes", "is drawn without end"),
        ("nowhere", "does not exist"),
        ("wds:nowhere/*.tar", "nowhere"),
    ):
        assert sentence in refused(words(source, tmp_path / "new", tiny_model), capsys)
    assert not (tmp_path / "new").exists()
    assert "fp32 or bf16, not in int8" in refused(
        words(images, tmp_path / "new", tiny_model, "--precision", "int8"), capsys
    )
    file = ["embed", f"wds:{images}", "-o", str(tmp_path / "e.npy")]
    assert "its embeddings go into a folder" in refused(file, capsys)
    assert "of one source, not of 2 things" in refused(["embed", "a", "b", "-o", "x"], capsys)
