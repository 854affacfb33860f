"""Members of tar archives against Python's own reader, and every way in which one is damaged."""

import contextlib
import io
import random
import tarfile
from pathlib import Path

import pytest

from unclip.data.tar import BLOCK, DamageError, Member, Reader, compression


def archive(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def read(raw: bytes) -> list[Member]:
    return list(Reader(io.BytesIO(raw), len(raw)))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_as_tarfile_reads_them(form: int) -> None:
    draw = random.Random(form)
    members = {f"d/{n}.jpg": draw.randbytes(draw.choice((0, 1, 511, 512, 513))) for n in range(20)}
    members["long/" * 30 + "e.txt"] = b"a name of more than 100 bytes"
    if form != tarfile.USTAR_FORMAT:
        members["é" * 150 + ".txt"] = b"and one that fits nowhere"
    raw = archive(members, form)
    found = read(raw)
    assert {one.name: raw[one.offset : one.offset + one.length] for one in found} == members
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert [(one.name, one.offset) for one in found] == [
            (one.name, one.offset_data) for one in tar
        ]


def test_links_folders_and_names_with_dots(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"content")
    (tmp_path / "b.txt").hardlink_to(tmp_path / "a.txt")
    (tmp_path / "c.txt").symlink_to("a.txt")
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        tar.add(tmp_path, ".")
        lost = tarfile.TarInfo("d.txt")
        lost.type, lost.linkname = tarfile.LNKTYPE, "gone.txt"
        tar.addfile(lost)
    found = {one.name: one for one in read(raw.getvalue())}
    assert set(found) == {"a.txt", "b.txt", "./c.txt", "d.txt"}
    regular = [found["a.txt"], found["b.txt"]]
    assert regular[0][1:] == regular[1][1:]
    content = raw.getvalue()[regular[0].offset : regular[0].offset + regular[0].length]
    assert content == b"content"
    assert found["./c.txt"].kind.startswith("links")
    assert found["d.txt"].kind == "hard links to nothing"


def test_archives_joined_by_cat_and_the_end_mark() -> None:
    first, second = archive({"a.txt": b"1"}), archive({"b.txt": b"2"})
    assert [one.name for one in read(first + second)] == ["a.txt", "b.txt"]
    for raw, ended in ((first, True), (first[: 2 * BLOCK], False)):
        reader = Reader(io.BytesIO(raw), len(raw))
        assert [one.name for one in reader] == ["a.txt"]
        assert reader.ended == ended


def test_large_sizes_in_binary() -> None:
    raw = bytearray(archive({"a.txt": bytes(600)}))
    raw[124:136] = b"\x80" + (600).to_bytes(11, "big")
    raw[148:156] = b" " * 8
    raw[148:156] = f"{sum(raw[:BLOCK]):06o}\0 ".encode()
    assert read(bytes(raw))[0].length == 600


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_damage_is_said_and_never_a_hang(form: int) -> None:
    whole = archive({"a" * 150: b"1" * 700, "b": b"2" * 700, "c": b"3"}, form)
    members = len(read(whole))
    for length in range(1, len(whole), 97):
        with contextlib.suppress(DamageError):
            assert len(read(whole[:length])) <= members
    draw = random.Random(0)
    damaged = 0
    for _ in range(300):
        raw = bytearray(whole)
        raw[draw.randrange(6 * BLOCK)] ^= 1 << draw.randrange(8)
        try:
            read(bytes(raw))
        except DamageError:
            damaged += 1
    assert damaged > 50


def test_compressed_ones_are_known_by_how_they_begin() -> None:
    assert compression(b"\x1f\x8b\x08") == "gunzip"
    assert compression(b"\x28\xb5\x2f\xfd") == "unzstd"
    assert compression(b"000000.jpg") is None
