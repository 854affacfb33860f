"""A server's life: clients that go away, a full queue, time, signals, logs, numbers."""

import base64
import io
import json
import logging
import os
import shutil
import signal
import socket
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.interfaces.server.conftest import (
    DECODED,
    FEW,
    Held,
    Served,
    holed,
    picture,
    png,
    serving,
    until,
)
from unclip.interfaces.cli import main
from unclip.interfaces.server.bodies import Limits
from unclip.interfaces.server.guard import LOG, JSONLines
from unclip.interfaces.server.serving import listening
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings

GENERATE = "/v1/images/generations"
SMALL = {"prompt": "a star", "size": "16x16", **FEW}


def held(one: Served) -> Held:
    engine = Held(one.desk)
    one.desk.scheduler.engine = engine
    return engine


def left(one: Served, once: Callable[[], bool], **body: Any) -> None:
    """A request whose client goes away once something is so."""
    there = len(one.desk.scheduler._places)
    data = json.dumps({**SMALL, **body}).encode()
    host, port = one.server.address.removeprefix("http://").split(":")
    head = f"POST {GENERATE} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(head.encode() + data)
        until(once)
    until(lambda: len(one.desk.scheduler._places) <= there)


def test_a_client_that_goes_away_frees_the_machine_within_a_step(pipe: Pipeline) -> None:
    with serving(pipe) as one:
        engine = held(one)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(one.post, GENERATE, json=SMALL)
            until(lambda: engine.begun == 1)
            left(one, lambda: one.desk.scheduler.waiting == 1)  # it waits, and never starts
            engine.go()
            assert running.result().status_code == 200
        engine.steps = threading.Semaphore(0)
        left(one, lambda: engine.begun == 2, n=3)
        engine.go(1)
        until(lambda: engine.ended == ["done", "given up"])
        engine.go()
        for number in range(5):
            assert one.post(GENERATE, json={**SMALL, "seed": number}).status_code == 200
        assert engine.begun == 7


def test_a_stream_whose_client_goes_away_ends(pipe: Pipeline) -> None:
    with serving(pipe) as one:
        engine = held(one)
        with one.http.stream("POST", GENERATE, json={**SMALL, "stream": True}) as answer:
            parts = answer.iter_bytes()  # whose end would be the connection's
            assert next(parts).startswith(b":")  # it has a place
            until(lambda: engine.begun == 1)
        until(lambda: not one.desk.scheduler._places)
        engine.go()
        until(lambda: engine.ended == ["given up"])


def test_a_full_queue_is_a_429_that_says_when_and_time_runs_out_in_a_504(pipe: Pipeline) -> None:
    with serving(pipe, queue=1, limits=Limits(seconds=1)) as one, ThreadPoolExecutor(2) as pool:
        engine = held(one)
        there = [pool.submit(one.post, GENERATE, json=SMALL) for _ in range(2)]
        until(lambda: len(one.desk.scheduler._places) == 2)
        refused = one.post(GENERATE, json=SMALL)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert one.post(GENERATE, json={**SMALL, "stream": True}).status_code == 429
        assert {answer.result().status_code for answer in there} == {504}
        engine.go()
        assert one.post(GENERATE, json=SMALL).status_code == 200


def test_generations_edits_and_variations_of_many_are_computed_together(pipe: Pipeline) -> None:
    """Each is its seed's, but for the rounding of sums in another order."""
    with serving(pipe, together=4) as one, ThreadPoolExecutor(8) as pool:
        engine = held(one)
        first = pool.submit(one.post, GENERATE, json={**SMALL, "size": "32x32"})
        until(lambda: engine.begun == 1)
        asked = [
            pool.submit(one.post, GENERATE, json={**FEW, "prompt": "a ring", "seed": 1}),
            pool.submit(
                one.post, GENERATE,
                json={**FEW, "prompt": "a heart", "seed": 2, "decoder_guidance_scale": 3.0},
            ),
            pool.submit(
                one.post, "/v1/images/variations", files={"image": png(picture())},
                data={k: str(v) for k, v in {**DECODED, "seed": 3}.items()},
            ),
        ]  # fmt: skip
        until(lambda: len(one.desk.scheduler._places) == 4)
        engine.go()
        answers = [answer.result() for answer in asked]
        assert first.result().status_code == 200
        assert engine.begun == 2  # the three at once
    few = Settings(**FEW)
    alone = [
        pipe("a ring", seed=1, settings=few),
        pipe("a heart", seed=2, settings=few, decoder_guidance_scale=3.0),
        pipe.vary(picture(), seed=3, settings=few),
    ]
    for answer, output in zip(answers, alone, strict=True):
        data = base64.b64decode(answer.json()["data"][0]["b64_json"])
        made = np.asarray(Image.open(BytesIO(data))).astype(int)
        assert np.abs(made - np.asarray(output.images[0])).max() <= 1


def test_the_log_is_json_without_captions_unless_asked(pipe: Pipeline) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONLines())
    LOG.addHandler(handler)
    level = LOG.level
    LOG.setLevel(logging.INFO)
    try:
        for told in (False, True):
            with serving(pipe, log_prompts=told) as one:
                one.post(GENERATE, json={**SMALL, "prompt": "a secret star", "user": "u1"})
                one.post(GENERATE, json={**SMALL, "prompt": "a secret \u0007 star"})
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    requests = [line for line in lines if line.get("event") == "request"]
    assert [line["status"] for line in requests] == [200, 400] * 2
    assert "secret" not in json.dumps(requests[:2])
    assert requests[2]["prompt"] == "a secret star"
    assert {"time", "level", "id", "seconds", "client", "user"} <= set(requests[0])


def test_numbers_for_prometheus(pipe: Pipeline) -> None:
    with serving(pipe) as one:
        one.post(GENERATE, json={**SMALL, "n": 2})
        one.post(GENERATE, json={**SMALL, "n": 0})
        text = one.http.get("/metrics").text
    for line in (
        'unclip_requests_total{endpoint="/v1/images/generations",status="200"} 1.0',
        "unclip_images_total 2.0",
        'unclip_refusals_total{reason="invalid_value"} 1.0',
        "unclip_requests_waiting 0.0",
        "unclip_queue_seconds_count 2.0",
        'unclip_request_seconds_count{endpoint="/v1/images/generations"} 2.0',
    ):
        assert line in text


@pytest.mark.parametrize("offload", [False, True])
def test_a_model_folder_that_changes_under_the_server(
    offload: bool, tiny_model: Path, tmp_path: Path
) -> None:
    """What was opened is served on; weights that are read anew are not taken for it."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    opened = Pipeline.from_pretrained(folder, device="cpu", dtype="fp32", offload=offload)
    with serving(opened) as one:
        sent = {**SMALL, "seed": 1}
        before = one.post(GENERATE, json=sent).json()["data"]
        for file in folder.glob("decoder/*.safetensors"):
            other = file.with_suffix(".other")
            other.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
            other.replace(file)
        after = one.post(GENERATE, json=sent)
        if offload:
            assert (after.status_code, after.json()["error"]["code"]) == (503, "model_changed")
            shutil.rmtree(folder)
            assert one.post(GENERATE, json=sent).json()["error"]["code"] == "model_changed"
        else:
            assert _pixels(after.json()["data"]) == _pixels(before)
        assert one.http.get("/health").status_code == 200


def _pixels(data: Any) -> list[bytes]:
    return [Image.open(BytesIO(base64.b64decode(one["b64_json"]))).tobytes() for one in data]


def test_sigterm_finishes_what_runs_refuses_the_rest_and_exits_0(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself, in this thread, which takes the signal; its clients are in others."""
    root = logging.getLogger()
    for logger, name in ((root, "handlers"), (root, "level"), (LOG, "level")):
        monkeypatch.setattr(logger, name, copy(getattr(logger, name)))
    with listening("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    slow = {**SMALL, "decoder_num_inference_steps": 150}

    def there(http: httpx2.Client, what: str) -> bool:
        try:
            return what in http.get("/metrics").text
        except httpx2.ConnectError:
            return False

    def asked() -> list[int]:
        """The statuses of what runs, of what waits, and of /ready after the signal."""
        try:
            with (
                httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as http,
                ThreadPoolExecutor(2) as pool,
            ):
                until(lambda: there(http, "unclip_requests_running 0.0"))
                running = pool.submit(http.post, GENERATE, json=slow)
                until(lambda: there(http, "unclip_requests_running 1.0"))
                queued = pool.submit(http.post, GENERATE, json=slow)
                until(lambda: there(http, "unclip_requests_waiting 1.0"))
                os.kill(os.getpid(), signal.SIGTERM)
                answers = [queued.result(), http.get("/ready"), running.result()]
                return [answer.status_code for answer in answers]
        except BaseException:
            os.kill(os.getpid(), signal.SIGTERM)  # or the command would go on for ever
            raise

    words = ["--model", str(tiny_model), "--port", str(port), "--precision", "fp32"]
    with ThreadPoolExecutor(1) as pool, warnings.catch_warnings():
        statuses = pool.submit(asked)
        assert main(["serve", *words, "--device", "cpu"]) == 0
        assert statuses.result() == [503, 503, 200]
    said = capsys.readouterr()
    assert f"127.0.0.1:{port}" in said.out
    events = [json.loads(line)["event"] for line in said.err.splitlines() if line.startswith("{")]
    assert "shutting down" in events
    assert "request" in events


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"), (["--host", "nowhere"], "--api-key"),
        (["--api-key-file", "nothing"], "nothing"), (["--port", "70000"], "65"),
        (["--compare", "nowhere"], "there is no model folder nowhere"),
        (["--model", "m", "--compare", "m"], "is the model that is served"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_said_before_the_model_is_opened(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *flags]) == 2
    assert says in capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with listening("127.0.0.1", 0) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot serve" in capsys.readouterr().err


def test_a_fault_of_ours_is_a_500_with_its_id_and_the_next_request_succeeds(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    with serving(pipe) as one:
        with monkeypatch.context() as patch:
            patch.setattr(one.desk.scheduler.engine, "compute", fault)
            answer = one.post(GENERATE, json=SMALL)
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert answer.headers["x-request-id"]
        with monkeypatch.context() as patch:
            patch.setattr("unclip.pipeline.pipeline.Pipeline.embed_images", fault)
            sent = {"files": {"image": png(holed(picture()))}}
            assert one.post("/v1/unclip/embed", **sent).status_code == 500
        assert one.post(GENERATE, json=SMALL).status_code == 200
