"""What is there is kept: by every command, and by several that write at the same time."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from tests.interfaces.cli.test_cli import Capture, refused
from unclip import Pipeline
from unclip.interfaces.cli import main
from unclip.interfaces.cli.options import ModelOptions
from unclip.interfaces.cli.outputs import numbered, write_beside, write_file, written_by
from unclip.interfaces.cli.reproduction import command_for
from unclip.outputs.images import read_info

TINY = ["--size", "16", "--decoder-steps", "1"]
OPEN = "unclip.interfaces.cli.options.ModelOptions.open"


def saying(text: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def test_a_named_file_has_the_new_text_and_the_old_one_is_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "x.txt"
    assert write_file(file, saying("one")) == str(file)
    assert (
        write_file(file, saying("two")) == f"{file} (what was there is {file.parent}/x-1.txt now)"
    )
    write_file(file, saying("three"))
    write_file(file, saying("three"))  # nothing new
    assert texts(file.parent) == {"x.txt": "three", "x-1.txt": "one", "x-2.txt": "two"}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    file, other = tmp_path / "x.txt", tmp_path / "other.txt"
    other.write_text("precious")
    file.symlink_to(other)
    write_file(file, saying("new"))
    assert other.read_text() == "precious"
    assert (tmp_path / "x-1.txt").readlink() == other


def test_a_free_name(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    for text in ("one", "two", "one", "three"):
        write_beside(chain([file], numbered(file)), saying(text))
    assert texts(tmp_path) == {"x.txt": "one", "x-1.txt": "two", "x-2.txt": "three"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no locks of folders")
@pytest.mark.parametrize("named", [True, False])
def test_many_at_the_same_time(named: bool, tmp_path: Path) -> None:
    file = tmp_path / "x.txt"

    def write(i: int) -> None:
        if named:
            write_file(file, saying(str(i)))
        else:
            write_beside(chain([file], numbered(file)), saying(str(i)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))
    assert sorted(map(int, texts(tmp_path).values())) == list(range(24))
    assert len(texts(tmp_path)) == 24  # and nothing half-written


def test_what_cannot_be_saved_leaves_what_is_there(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise ValueError(f"{path} cannot be written")

    file = tmp_path / "x.txt"
    file.write_text("mine")
    with pytest.raises(ValueError, match=f"^{file} cannot be written$"):
        write_file(file, fail)
    assert texts(tmp_path) == {"x.txt": "mine"}


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands run, with two pictures; all share one opened model."""
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")
    monkeypatch.setattr(OPEN, lambda self: pipe)
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a.png", (200, 0, 0)), ("b.png", (0, 200, 0))):
        Image.new("RGB", (40, 40), colour).save(name)
    return tmp_path


@pytest.mark.parametrize(
    ("first", "second", "files"),
    [
        (["vary", "a.png", *TINY], ["vary", "b.png", *TINY], 2),
        (["vary", "a.png", "-n", "2", *TINY], ["vary", "b.png", "-n", "2", *TINY], 4),
        (["edit", "a.png", "--to", "a star", *TINY], ["edit", "b.png", "--to", "a star", *TINY], 2),
        (["edit", "a.png", "--to", "x", *TINY], ["edit", "a.png", "--to", "y z", *TINY], 2),
        (["blend", "a.png", "b.png", *TINY], ["blend", "b.png", "a.png", *TINY], 14),
        (["decode", "a.npy", *TINY], ["decode", "a.npy", "--seed", "1", *TINY], 2),
        (["generate", "x", *TINY], ["generate", "x", *TINY, "--decoder-steps", "2"], 2),
        (["generate", "x", *TINY], ["generate", "x", *TINY], 1),
        (["vary", "a.png", "-o", "v.png", *TINY], ["vary", "b.png", "-o", "v.png", *TINY], 2),
        (["embed", "a.png"], ["embed", "b.png"], 2),
        (["invert", "a.png", "--steps", "2"], ["invert", "b.png", "--steps", "2"], 2),
        (["upscale", "a.png", "--size", "64"],
         ["upscale", "a.png", "--size", "64", "--seed", "1"], 2),
        (["data", "emoji", "--kinds", "shapes", "--preview", "w.png", "--rows", "1"],
         ["data", "emoji", "--kinds", "shapes", "--preview", "w.png", "--rows", "2"], 2),
    ],
)  # fmt: skip
def test_nothing_is_lost(
    first: list[str], second: list[str], files: int, folder: Path, capsys: Capture
) -> None:
    main(["embed", "a.png", "-o", "a.npy"])
    before = set(folder.rglob("*.*"))
    for words in (first, second):
        assert main(words) == 0, capsys.readouterr().err
    new = [path for path in folder.rglob("*.*") if path not in before]
    assert len({path.read_bytes() for path in new}) == len(new) == files
    assert min(new, key=str).name in capsys.readouterr().out


def test_a_place_that_is_no_file(folder: Path, capsys: Capture) -> None:
    os.mkfifo(folder / "pipe.png")
    for words in (["vary", "a.png"], ["generate", "x"], ["upscale", "a.png"]):
        assert "is no regular file" in refused([*words, "-o", "pipe.png"], capsys)


def test_the_commit_is_noted() -> None:
    """The command that makes the image again opens the weights that made it."""
    commit = "0123456789" * 4
    pipe: Any = SimpleNamespace(revision=commit, device=torch.device("cpu"), engine="torch")
    given = ["vary", "a.png", "--revision", "main", "--revision=v2", "--", "--revision"]
    assert written_by("hf:o/m", pipe, given)["command"] == [
        "vary", "--revision", commit, "a.png", "--", "--revision"
    ]  # fmt: skip


def test_the_commit_is_a_flag_of_generate(folder: Path) -> None:
    pipe = ModelOptions().open()
    pipe.revision = "0123456789" * 4
    assert main(["generate", "x", "--model", "hf:o/m", "-o", "x.png", *TINY]) == 0
    command = command_for(read_info("x.png"))
    assert "--model hf:o/m" in command
    assert f"--revision {pipe.revision}" in command
