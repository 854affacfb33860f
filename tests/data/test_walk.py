"""What a folder of images holds: every kind of entry that real and hostile folders have."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from unclip.data import walk as kinds
from unclip.data.walk import Found, walk

pytestmark = pytest.mark.timeout(30)  # what is followed for ever, or waited for


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_images_texts_and_tables_by_their_names(tmp_path: Path) -> None:
    names = ("b/IMG_1.JPG", "b/IMG_1.TXT", "a.jfif", "a.txt", "a.TXT", "Captions.CSV", "z.PNG")
    touch(*(tmp_path / name for name in names))
    found = walk(tmp_path)
    assert found.images == ["a.jfif", "b/IMG_1.JPG", "z.PNG"]
    assert found.texts == {"a": ["a.TXT", "a.txt"], "b/IMG_1": ["b/IMG_1.TXT"]}
    assert found.tables == ["Captions.CSV"]
    assert not found.unread
    assert not found.linked


def pipe(root: Path) -> None:
    for name in ("p.png", "p.txt", "captions.csv"):
        os.mkfifo(root / name)


def endpoint(root: Path) -> None:
    here = os.getcwd()
    os.chdir(root)  # such names are short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("s.png")
    os.chdir(here)


def circles(root: Path) -> None:
    (root / "again").symlink_to(root)
    (root / "f").mkdir()
    (root / "f" / "up").symlink_to(root)


def nowhere(root: Path) -> None:
    (root / "gone.png").symlink_to(root / "nothing.png")
    (root / "self.png").symlink_to(root / "self.png")


def deep(root: Path) -> None:
    here = os.getcwd()
    os.chdir(root)
    for _ in range(30):  # 6,000 characters: no path of that length can be given to the system
        os.mkdir("n" * 200)
        os.chdir("n" * 200)
    os.chdir(here)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    ("make", "kind", "names"),
    [
        (pipe, kinds.SPECIAL, ["captions.csv", "p.png", "p.txt"]),
        (endpoint, kinds.SPECIAL, ["s.png"]),
        (lambda root: (root / "d.png").symlink_to("/dev/zero"), kinds.SPECIAL, ["d.png"]),
        (nowhere, kinds.DEAD, ["gone.png", "self.png"]),
        (circles, kinds.AGAIN, ["again", "f/up"]),
        (deep, kinds.CLOSED, None),
        (lambda root: touch(root / "a.heic", root / "b.MP4"), kinds.FOREIGN, ["a.heic", "b.MP4"]),
        (lambda root: touch(root / "a.tar.gz"), kinds.ARCHIVES, ["a.tar.gz"]),
        (lambda root: touch(root / "labels.csv"), kinds.OTHER_TABLES, ["labels.csv"]),
        (lambda root: touch(root / "a.png.part", root / "b"), kinds.OTHER, ["a.png.part", "b"]),
    ],
)
def test_nothing_is_passed_over_without_a_word(
    tmp_path: Path, make: Callable[[Path], None], kind: str, names: list[str] | None
) -> None:
    touch(tmp_path / "ok.png")
    make(tmp_path)
    found = walk(tmp_path)
    assert found.images == ["ok.png"]
    assert not found.texts
    assert not found.tables
    assert list(found.unread) == [kind]
    assert names is None or found.unread[kind] == names


def test_a_folder_that_must_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "ok.png", tmp_path / "private" / "1.png")
    scandir = os.scandir

    def refusing(path: str) -> "os._ScandirIterator[str]":
        if "private" in path:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert walk(tmp_path) == Found(["ok.png"], unread={kinds.CLOSED: ["private"]})


def test_what_systems_put_into_folders_is_not_looked_at(tmp_path: Path) -> None:
    for name in ("._1.png", ".thumbs/1.png", "__MACOSX/._1.png", "@eaDir/1.png/thumb.jpg"):
        touch(tmp_path / name)
    assert walk(tmp_path) == Found()


def test_folders_may_be_named_like_files(tmp_path: Path) -> None:
    for name in ("x.png/1.png", "1.txt/2.png", "captions.csv/3.png"):
        touch(tmp_path / name)
    assert walk(tmp_path).images == ["1.txt/2.png", "captions.csv/3.png", "x.png/1.png"]


def test_links_out_of_the_folder_are_said(tmp_path: Path) -> None:
    root, other = tmp_path / "data", tmp_path / "other"
    touch(root / "in.png", other / "1.png", other / "deep" / "2.png", tmp_path / "data2" / "3.png")
    (root / "away").symlink_to(other)
    (root / "three.png").symlink_to(tmp_path / "data2" / "3.png")  # whose name begins as root's
    (root / "same.png").symlink_to(root / "in.png")
    found = walk(root)
    assert found.images == ["away/1.png", "away/deep/2.png", "in.png", "same.png", "three.png"]
    assert found.linked == ["away/1.png", "away/deep/2.png", "three.png"]


def test_real_folders_come_before_links_to_them(tmp_path: Path) -> None:
    """So that a table's names hold, whatever the link is called."""
    touch(tmp_path / "zz" / "1.png")
    (tmp_path / "aa").symlink_to(tmp_path / "zz")
    assert walk(tmp_path).images == ["zz/1.png"]
