"""The stream of batches: exact resume, any number of workers and ranks, and obedient workers."""

import itertools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unclip.batch import Batch
from unclip.data.batches import Order, batches
from unclip.data.captions import Report
from unclip.data.folder import FolderSource
from unclip.data.registry import open_source
from unclip.data.sources import Sample


class Numbers:
    """Sample i is an image of i and the caption "i"."""

    endless = False

    def __init__(self, length: int = 23, broken: int | None = None) -> None:
        self.length = length
        self.broken = broken

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if self.broken is not None and index % self.length == self.broken:
            raise ValueError(f"number {index} is broken")
        image = torch.full((3, 2, 2), index % 256, dtype=torch.uint8)
        return {"image": image, "caption": str(index)}

    def check(self, decode: bool = False) -> Report:
        return Report("numbers")

    def fingerprint(self) -> str:
        return ""


def take(stream: Iterator[Batch], count: int) -> list[Batch]:
    taken = list(itertools.islice(stream, count))
    stream.close()  # type: ignore[attr-defined]
    return taken


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        a["captions"] == b["captions"] and torch.equal(a["images"], b["images"])
        for a, b in zip(one, other, strict=True)
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 400), st.integers(0, 2**63), st.integers(0, 5))
def test_every_epoch_holds_every_image_once(length: int, seed: int, epoch: int) -> None:
    order = Order(length, seed)
    indices = [order(epoch * length + place) for place in range(length)]
    assert sorted(indices) == list(range(epoch * length, (epoch + 1) * length))


def test_orders_differ_by_seed_and_epoch_and_look_random() -> None:
    def epoch(seed: int, number: int) -> list[int]:
        order = Order(100, seed)
        return [order(number * 100 + place) % 100 for place in range(100)]

    orders = [tuple(epoch(seed, number)) for seed in range(10) for number in range(10)]
    assert len(set(orders)) == 100
    assert all(abs(np.corrcoef(range(100), order)[0, 1]) < 0.45 for order in orders)
    # All 24 orders of four images come up, each about as often as the others.
    counts = Counter(tuple(Order(4, seed)(k) for k in range(4)) for seed in range(2400))
    assert len(counts) == 24
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 50  # chi2, 23 degrees


def test_order_of_a_billion_images_is_instant() -> None:
    order = Order(10**9, 1)
    indices = {order(k) for k in range(1000)}
    assert len(indices) == 1000
    assert all(0 <= index < 10**9 for index in indices)
    assert 0.4e9 < np.mean(list(indices)) < 0.6e9


def test_endless_sources_are_read_in_order() -> None:
    order = Order.of(open_source("emoji:shapes", size=32), seed=9)
    assert [order(k) for k in range(5)] == [0, 1, 2, 3, 4]
    assert Order.of(Numbers(), seed=9).shuffle
    with pytest.raises(ValueError, match="no images"):
        Order(0)


def test_batches_are_bytes() -> None:
    source = open_source("emoji:shapes", size=32)
    (batch,) = take(batches(source, Order.of(source), 4), 1)
    assert batch["images"].shape == (4, 3, 32, 32)
    assert batch["images"].dtype == torch.uint8
    assert torch.equal(batch["images"], torch.stack([source[i]["image"] for i in range(4)]))
    assert batch["captions"] == [source[index]["caption"] for index in range(4)]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 60), st.integers(0, 99))
def test_resume_continues_the_uninterrupted_stream(
    length: int, batch_size: int, step: int, seed: int
) -> None:
    source, order = Numbers(length), Order(length, seed)
    whole = take(batches(source, order, batch_size), step + 3)
    assert same(whole[step:], take(batches(source, order, batch_size, step), 3))


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_split_each_batch(world_size: int) -> None:
    source, order = Numbers(), Order(23, 4)
    whole = take(batches(source, order, 6, 2), 5)
    parts = [take(batches(source, order, 6, 2, rank, world_size), 5) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        captions = [caption for part in parts for caption in part[step]["captions"]]
        assert captions == batch["captions"]
        assert torch.equal(torch.cat([part[step]["images"] for part in parts]), batch["images"])


def test_workers_change_nothing(tmp_path: Path) -> None:
    for number in range(7):
        noise = np.random.default_rng(number).integers(0, 255, (20, 50, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("one\ntwo\nthree")
    source = FolderSource(tmp_path, 16, seed=2)
    order = Order.of(source, 3)
    state = torch.get_rng_state()
    alone = take(batches(source, order, 4, 5), 9)
    for workers in (1, 2):
        assert same(alone, take(batches(source, order, 4, 5, num_workers=workers), 9))
    assert torch.equal(torch.get_rng_state(), state)


def test_undecodable_images_are_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        Image.effect_noise((40, 40), 90).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(str(number))
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    source = FolderSource(tmp_path, 16)
    with caplog.at_level(logging.WARNING):
        stream = take(batches(source, Order.of(source), 4, num_workers=1), 5)
    assert all(len(batch["captions"]) == 4 for batch in stream)
    assert len(caplog.messages) == 1
    assert "2.png is damaged" in caplog.messages[0]
    assert "another image takes its place" in caplog.messages[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_stays_one_sentence_through_workers(workers: int) -> None:
    stream = batches(Numbers(broken=3), Order(23, shuffle=False), 4, num_workers=workers)
    with pytest.raises(ValueError, match=r"^number 3 is broken$"):
        next(stream)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch_size": 0}, "choose a multiple"),
        ({"batch_size": 5, "world_size": 2}, "evenly over 2"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"batch_size": 4, "world_size": 0}, "rank 0 of 0"),
        ({"batch_size": 4, "num_workers": -1}, "0 or more"),
        ({"batch_size": 4, "start_step": -1}, "0 or more"),
    ],
)
def test_impossible_numbers_are_refused_at_once(options: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        batches(Numbers(), Order(23), **options)


PROGRAM = """
import multiprocessing, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from unclip.data import batches as module
from unclip.data.batches import Order, batches
from unclip.data.registry import open_source
source = open_source("emoji:shapes", size=32)
obey = module._start_worker
def late(parent, worker):
    time.sleep(worker)
    obey(parent, worker)
if sys.argv[1] == "late":
    module._start_worker = late
stream = batches(source, Order.of(source), 4, num_workers=2)
next(stream)
try:
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(0 if sys.argv[1] == "end" else 30)
except KeyboardInterrupt:
    for _ in range(20):
        next(stream)  # the workers still serve
    stream.close()
    print("stopped", flush=True)
"""


def start(mode: str) -> tuple["subprocess.Popen[str]", list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    return process, workers


def gone(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # dead; waits for an init process to collect it
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_die_silently_with_the_main_process() -> None:
    process, workers = start("wait")
    process.kill()
    _, errors = process.communicate(timeout=20)
    assert all(gone(pid, 8) for pid in workers)
    assert errors == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mode", ["wait", "late"])  # late: before a worker is ready
def test_signals_to_the_group_are_the_main_process_business(mode: str) -> None:
    process, workers = start(mode)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    output, errors = process.communicate(timeout=20)
    assert output.strip() == "stopped"
    assert errors == ""
    assert process.returncode == 0
    assert all(gone(pid, 8) for pid in workers)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_program_that_ends_in_the_middle_ends() -> None:
    process, workers = start("end")
    _, errors = process.communicate(timeout=25)
    assert process.returncode == 0
    assert errors == ""
    assert all(gone(pid, 8) for pid in workers)


CHILD = """
import multiprocessing, sys
from unclip.data.batches import Order, batches
from unclip.data.registry import open_source
KEPT = []
def use():
    source = open_source("emoji:shapes", size=32)
    KEPT.append(batches(source, Order.of(source), 4, num_workers=1))
    next(KEPT[0])
if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=use)
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_child_process_that_ends_in_the_middle_ends() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CHILD], timeout=25, env=environment, check=False)
    assert done.returncode == 0


TEMPORARY = """
from unclip.data.batches import Order, batches
from unclip.data.registry import open_source
if __name__ == "__main__":
    source = open_source("emoji:shapes", size=32)
    print(next(batches(source, Order.of(source), 4, num_workers=1))["captions"][0])
"""


def test_workers_need_no_socket_below_tmpdir(tmp_path: Path) -> None:
    """Sockets have paths of 107 characters at most, folders have no such limit."""
    folder = tmp_path / ("a" * 120)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", TEMPORARY],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.stdout.strip() == open_source("emoji:shapes", size=32).caption(0)
    assert done.stderr == ""


@pytest.mark.timeout(60)
def test_a_worker_that_is_ended_is_said() -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    stream = batches(Numbers(), Order(23), 4, num_workers=1)
    next(stream)
    assert signal.getsignal(signal.SIGCHLD) is handler
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(ValueError, match=r"ended by the system.*fewer data\.workers"):
        take(stream, 10)


@pytest.mark.timeout(60)
def test_a_batch_that_cannot_be_sent_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("unclip.data.batches._packed", lambda raw: lambda: raw)  # not picklable
    with pytest.raises(ValueError, match="ended by the system"):
        next(batches(Numbers(), Order(23), 4, num_workers=1))
    assert "cannot hand over a batch" in capfd.readouterr().err
