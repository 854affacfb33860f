"""A server's life: clients that go away, a full queue, time, signals, logs, numbers."""

import base64
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
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


def left(one: Served, **body: Any) -> None:
    """A request whose client goes away when it has begun, or waits."""
    there = len(one.desk.scheduler._places)
    with (
        pytest.raises(httpx2.TimeoutException),
        httpx2.Client(base_url=one.server.address, timeout=0.3) as http,
    ):
        http.post(GENERATE, json={**SMALL, **body})
    until(lambda: len(one.desk.scheduler._places) <= there)


def test_a_client_that_goes_away_frees_the_machine_within_a_step(pipe: Pipeline) -> None:
    with serving(pipe) as one:
        engine = held(one)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(one.post, GENERATE, json=SMALL)
            until(lambda: engine.begun == 1)
            left(one)  # it waits, and never starts
            engine.go()
            assert running.result().status_code == 200
        engine.steps = threading.Semaphore(0)
        left(one, n=3)
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
            assert next(answer.iter_bytes()).startswith(b":")  # it has a place
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


def test_sigterm_finishes_what_runs_refuses_the_rest_and_exits_0(tiny_model: Path) -> None:
    """The command itself, in a process."""
    run = [sys.executable, "-m", "unclip", "serve", "--model", str(tiny_model), "--port", "0",
           "--precision", "fp32", "--device", "cpu"]  # fmt: skip
    process = subprocess.Popen(
        run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split(" at ")[1].split(" ")[0]
        slow = {**SMALL, "decoder_num_inference_steps": 150}
        with httpx2.Client(base_url=address, timeout=60) as http, ThreadPoolExecutor(3) as pool:
            running = pool.submit(http.post, GENERATE, json=slow)
            until(lambda: "unclip_requests_running 1.0" in http.get("/metrics").text)
            queued = pool.submit(http.post, GENERATE, json=slow)
            until(lambda: "unclip_requests_waiting 1.0" in http.get("/metrics").text)
            process.send_signal(signal.SIGTERM)
            assert queued.result().status_code == 503
            assert http.get("/ready").status_code == 503
            assert running.result().status_code == 200
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert all(json.loads(line) for line in said.splitlines() if line.startswith("{"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"), (["--host", "nowhere"], "--api-key"),
        (["--api-key-file", "nothing"], "nothing"), (["--port", "70000"], "65"),
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
