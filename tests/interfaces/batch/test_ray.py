"""`unclip batch --ray` and `unclip.serving.ray_app`: in processes and a network of their own.

Ray Serve listens at every address of the machine, so that `ray_cases.py` is run in a namespace that
nothing else is in; when that ends, so do all of Ray's processes.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unclip.interfaces.cli import main

_ALONE = ["unshare", "-rnpf", "--mount-proc", "--kill-child"]
_LONGEST = 540.0  # seconds; a minute where nothing else computes


def _namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_ALONE, "true"], capture_output=True).returncode == 0


def test_jobs_and_serving_on_a_local_ray() -> None:
    pytest.importorskip("ray")
    if not _namespaces():
        pytest.skip("this machine allows no network namespace, and Ray Serve would listen to all")
    place = Path(tempfile.mkdtemp("", "r", "/tmp"))  # Ray's sockets have short names
    environment = os.environ | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # 15 is its own: never where others compute
        "RAY_CASES": str(place / "ray"), "OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(place),
        "HOME": str(place),  # where Ray keeps a token
    }  # fmt: skip
    cases = Path(__file__).with_name("ray_cases.py")
    words = ["-m", "pytest", "-q", "-x", "-rs", "-p", "no:cacheprovider", f"--basetemp={place}/pt"]
    try:
        done = subprocess.run(
            [*_ALONE, sys.executable, *words, str(cases)], env=environment, text=True,
            capture_output=True, cwd=Path(__file__).parents[3], timeout=_LONGEST,
        )  # fmt: skip
    finally:
        shutil.rmtree(place)
    assert done.returncode == 0, done.stdout + done.stderr
    if " passed" not in done.stdout:  # why is said in ray_cases.py
        pytest.skip(done.stdout[done.stdout.index("SKIPPED") :].strip())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--ray", "nonsense"], "no address"),
        (["--ray", "ray://nobody:1"], "no address"),
        (["--ray", "local", "--worker", "0/2"], "leave out --worker"),
        (["--ray-workers", "2"], "--ray ADDRESS"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    flags: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a star"}\n')
    assert main(["batch", str(tmp_path / "p.jsonl"), "-o", str(tmp_path / "out"), *flags]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_address_where_nobody_listens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "p.jsonl").write_text('{"prompt": "a star"}\n')
        words = ["batch", str(tmp_path / "p.jsonl"), "-o", str(tmp_path / "out")]
        assert main([*words, "--ray", address]) == 2
    said = capsys.readouterr().err
    assert f"no Ray cluster answers at {address}" in said
    assert len(said.splitlines()) == 1


def test_an_address_where_something_else_listens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as other, ThreadPoolExecutor(1) as pool:

        def answer() -> None:
            talk, _ = other.accept()
            with talk:
                talk.recv(1)
                talk.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        answering = pool.submit(answer)
        address = f"127.0.0.1:{other.getsockname()[1]}"
        (tmp_path / "p.jsonl").write_text('{"prompt": "a star"}\n')
        words = ["batch", str(tmp_path / "p.jsonl"), "-o", str(tmp_path / "out")]
        assert main([*words, "--ray", address]) == 2
        answering.result()
    assert "what listens there is something else" in capsys.readouterr().err


def test_ray_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "p.jsonl").write_text('{"prompt": "a star"}\n')
    words = ["batch", str(tmp_path / "p.jsonl"), "-o", str(tmp_path / "out"), "--ray", "local"]
    assert main(words) == 2
    assert "pip install 'unclip[ray]'" in capsys.readouterr().err
    from unclip.serving.ray_app import app

    with pytest.raises(ValueError, match=r"unclip\[ray\]"):
        app({})
