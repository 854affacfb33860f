"""A job on a disk that is full: a real one, of some kilobytes, that only a child process sees."""

import contextlib
import ctypes
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interfaces.batch.test_batch import FAST
from unclip.interfaces.cli import main

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_PRIVATE, _REMOUNT = 0x4000 | 0x40000, 0x20


def on_a_small_disk(place: Path, size: str, work: Callable[[Callable[[str], None]], Any]) -> Any:
    """What `work` gives, as JSON, in a child for whom `place` is a disk of that size.

    Args:
        work: is given a function that makes the disk another size.
    """
    told = place.parent / "told.json"
    child = os.fork()
    if not child:
        try:
            _mount(place, size)
        except OSError:
            os._exit(77)
        try:
            told.write_text(json.dumps(work(lambda size: _mount(place, size, _REMOUNT))))
        finally:
            os._exit(0)
    if os.waitpid(child, 0)[1] == 77 << 8:
        pytest.skip("this machine allows no mount namespaces")
    return json.loads(told.read_text())


def _mount(place: Path, size: str, flags: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def done(result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), "refused")

    if not flags:
        user, group = os.getuid(), os.getgid()
        done(libc.unshare(_NEW_MOUNTS | (_NEW_USER if user else 0)))
        if user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        done(libc.mount(b"none", b"/", None, _PRIVATE, None))
    done(libc.mount(b"none", bytes(place), b"tmpfs", flags, f"size={size}".encode()))


def test_a_full_disk_ends_the_job_which_goes_on_when_there_is_room(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text(8 * (json.dumps({"prompt": "a red star"}) + "\n"))
    Path("disk").mkdir()

    def run(out: str) -> tuple[int, str]:
        words = ["--model", str(tiny_model), "--precision", "fp32", "--prompts-per-shard", "2"]
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = main(["batch", "prompts.jsonl", "-o", out, *words, *FAST])
        return code, said.getvalue()

    def work(resize: Callable[[str], None]) -> Any:
        first = run("disk/job")
        there = sorted(str(path.relative_to("disk/job")) for path in Path("disk/job").rglob("*"))
        resize("4m")
        return *first, there, run("disk/job")[0], contents("disk/job")

    def contents(folder: str) -> dict[str, str]:
        return {path.name: path.read_bytes().hex() for path in Path(folder).iterdir()}

    code, said, there, again, made = on_a_small_disk(tmp_path / "disk", "36k", work)
    assert code == 2
    assert "No space left on device" in said
    assert len(said.splitlines()) == 1
    assert "job.json" in there
    assert len(there) < 5
    assert all(name == "job.json" or name.endswith(".tar") for name in there)  # nothing half-done
    assert again == 0
    assert run("whole")[0] == 0
    assert made == contents("whole")
