"""Jobs and the images API on a local Ray. `test_ray.py` runs this file in a network of its own."""

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.interfaces.batch.test_batch import FAST, files
from unclip import Pipeline
from unclip.interfaces.cli import main

COLOURS = ("red", "blue", "green", "grey", "pink", "black")
PROMPTS = [f"a {colour} {shape}" for colour in COLOURS for shape in ("star", "ring")]
FEW = {"prior_num_inference_steps": 1, "super_res_num_inference_steps": 1}


def bring_up() -> None:
    """The loopback interface of a new network namespace, which is down."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 0x41))  # UP, RUNNING


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray on two cores."""
    bring_up()
    import ray

    for _ in range(2):  # Ray gives a busy machine 30 s for its processes to begin
        try:
            ray.init(
                "local", num_cpus=2, include_dashboard=False, log_to_driver=False,
                object_store_memory=10**8, _temp_dir=os.environ["RAY_CASES"],
            )  # fmt: skip
            break
        except Exception as error:
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            why = f"raylet does not begin here: {str(error).splitlines()[0]}"
    else:
        pytest.skip(why)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def kill_actor(folder: Path) -> int:
    """Kills who makes the shards, when one is written; returns how many processes that were."""
    until, killed = time.monotonic() + 300, 0
    while not list(folder.glob("shard-*.tar")) and time.monotonic() < until:
        time.sleep(0.01)
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        line = status.read_bytes()
        if line.startswith(b"ray::") and b"ShardMaker" in line:
            os.kill(int(status.parent.name), signal.SIGKILL)
            killed += 1
    return killed


def test_a_job_on_ray_writes_what_one_process_does_whoever_is_killed(
    cluster: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds are exact, and a row that comes to nothing is listed, and tried again by Ray too."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": text, "seed": str(2**64 - 1 - k)} for k, text in enumerate(PROMPTS)]
    rows.append({"prompt": " "})
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--model", str(tiny_model), "--precision", "fp32", "--prompts-per-shard", "2", *FAST]
    words = ["batch", "prompts.jsonl", *flags, "-o"]
    ray = [*words, "ray", "--ray", cluster, "--ray-workers", "1"]
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_actor, Path("ray"))
        done = subprocess.run(
            [sys.executable, "-m", "unclip", *ray], capture_output=True, text=True
        )
        assert done.returncode == 3, done.stderr
        assert killing.result() == 1
    said = [line for line in done.stderr.splitlines() if "core_worker.cc" not in line]
    assert len(said) == 1, done.stderr  # of what failed; of its own actors' arguments Ray warns
    assert "Ray: 7 shards written" in done.stdout
    assert main([*words, "one"]) == 3
    assert files("ray") == files("one")
    [listed] = Path("ray/failed/shard-000006.jsonl").read_text().splitlines()
    assert json.loads(listed)["why"].startswith("line 13")


def number(name: str, http: httpx2.Client) -> float:
    """One of the replica's numbers."""
    lines = http.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def test_a_full_queue_on_ray_serve_is_a_429_and_images_are_their_seeds(
    cluster: str, tiny_model: Path
) -> None:
    from ray import serve

    from unclip.serving.ray_app import app

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    model = {"model": str(tiny_model), "precision": "fp32", "queue": "2", "name": "tiny"}
    serve.run(app({**model, "watermark": "false", "max_replicas": 1}))
    path = "/v1/images/generations"
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as http:
        body = {"prompt": "a star", "seed": 7, "decoder_num_inference_steps": 2, **FEW}
        made = http.post(path, json=body).json()["data"][0]["b64_json"]
        pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")
        expected = pipe("a star", seed=7, decoder_num_inference_steps=2, **FEW).images[0]
        assert (np.asarray(Image.open(BytesIO(b64decode(made)))) == np.asarray(expected)).all()

        slow: dict[str, Any] = {**body, "decoder_num_inference_steps": 40}
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: http.post(path, json=slow), range(12)))
        assert {answer.status_code for answer in answers} == {200, 429}, answers
        for answer in answers:
            if answer.status_code == 429:
                assert answer.json()["error"]["code"] == "queue_full"
                assert int(answer.headers["retry-after"]) >= 1

        before = number("unclip_images_total", http)
        with pytest.raises(httpx2.TimeoutException):
            http.post(path, json={**slow, "decoder_num_inference_steps": 900}, timeout=1)
        until = time.monotonic() + 200
        while number("unclip_requests_running", http):
            assert time.monotonic() < until
            time.sleep(0.1)
        assert number("unclip_images_total", http) == before  # it was left in the middle
        refused = http.post(path, json={**body, "response_format": "url"})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "response_format"
    serve.shutdown()
