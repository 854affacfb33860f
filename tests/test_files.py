import os
import stat
import subprocess
import sys
import threading

import pytest
import torch

from unclip.files import (
    open_regular,
    read_bytes,
    read_facts,
    read_json,
    read_safetensors,
    read_text,
    sweep,
    whole,
    write_json,
    write_safetensors,
    write_text,
)


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "pipe.json"
    os.mkfifo(path)
    return path


@pytest.mark.timeout(10)
@pytest.mark.parametrize("read", [open_regular, read_bytes, read_text, read_json, read_safetensors])
def test_a_pipe_is_refused_at_once(fifo, read):
    with pytest.raises(ValueError, match="no regular file"):
        read(fifo)


@pytest.mark.parametrize("read", [read_bytes, read_json, read_safetensors])
def test_a_folder_is_no_file(tmp_path, read):
    with pytest.raises(ValueError, match="is a folder"):
        read(tmp_path)


def test_a_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 11)
    assert len(read_bytes(path, 11)) == 11
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        read_bytes(path, 10)
    os.truncate(path, 2**36)  # sparse: read whole, it would fill the memory
    with pytest.raises(ValueError, match="larger than"):
        read_json(path)


def test_text_is_utf8_with_any_line_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffä\r\nb\rc\n".encode())
    assert read_text(path) == "ä\nb\nc\n"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_text(path)


def test_planted_links_are_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in (".a.json.partial", ".a.json..partial"):
        (tmp_path / name).symlink_to(precious)
    write_text(tmp_path / "a.json", "mine")
    assert precious.read_text() == "precious"
    assert (tmp_path / "a.json").read_text() == "mine"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_decides_who_may_read(tmp_path, umask):
    old = os.umask(umask)
    try:
        write_text(tmp_path / "a", "a")
        write_safetensors(tmp_path / "b", {"x": torch.zeros(2)})
    finally:
        os.umask(old)
    for name in "ab":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def fail():
        with whole(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_killed_process_left_is_swept_and_what_is_being_written_stays(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from unclip.files import whole\n"
        "with whole(Path(sys.argv[1])) as p: p.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=False)
    assert len(os.listdir(tmp_path)) == 1
    with whole(tmp_path / "a") as partial:  # sweeps first
        partial.write_text("new")
        sweep(tmp_path)
        assert partial.exists()
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == ["a"]


def test_two_threads_write_one_file(tmp_path):
    def write():
        for _ in range(20):
            write_text(tmp_path / "a", "x" * 1000)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() == "x" * 1000
    assert os.listdir(tmp_path) == ["a"]


def test_a_name_that_is_not_utf8(tmp_path):
    path = tmp_path / "a\udcff.safetensors"
    for act in (lambda: write_safetensors(path, {"x": torch.zeros(2)}), lambda: read_facts(path)):
        with pytest.raises(ValueError, match=r"a\\udcff.safetensors has a name that is not UTF-8"):
            act()
    write_json(tmp_path / "a.json", {"of": str(path)})
    assert read_json(tmp_path / "a.json") == {"of": str(path)}
