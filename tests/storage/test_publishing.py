"""Publications that are killed at every step, planted links, and readers beside a writer."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from unclip.acceleration.offload import Offload
from unclip.files import read_json
from unclip.storage import publishing
from unclip.storage.folder import ModelFolder

ENTRY = ("unclip", "Linear")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed processes lose nothing that the kernel has; only power cuts need it on the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def publish(folder: ModelFolder, value: float, weights: bool = False) -> None:
    """Two components, a note and, with the second value, a component that goes."""
    tensors = {"weight": torch.full((2, 2), float(value))} if weights else None
    with folder.publishing():
        for name in ("a", "b"):
            folder.save(name, ENTRY, {"config.json": {"value": value}}, tensors)
        folder.update_index({"_value": value})
        if value == 1:
            folder.save("only_old", ENTRY, {"config.json": {"value": value}})
        else:
            folder.remove("only_old")


def seen(folder: ModelFolder) -> set[float]:
    """Which publications a reader finds parts of."""
    values = {folder.config(name)["value"] for name in ("a", "b")}
    values.add(folder.index()["_value"])
    values.add(1.0 if folder.has("only_old") else 2.0)
    return values


def killed_at(step: int, work: Callable[[], None], place: Path) -> bool:
    """Do `work` in a process that dies at its `step`-th access to the disk; whether it did."""
    child = os.fork()
    if child == 0:
        left = step

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event.split(".")[0] in ("os", "open", "shutil", "tempfile") and any(
                str(place) in str(argument) for argument in arguments
            ):
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(watch)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def test_killed_at_any_step_all_of_it_is_there_or_nothing(tmp_path: Path) -> None:
    publish(ModelFolder(tmp_path / "old"), 1)
    found = []
    for step in range(1000):
        path = Path(shutil.copytree(tmp_path / "old", tmp_path / f"m{step}"))
        if not killed_at(step, lambda path=path: publish(ModelFolder(path), 2), path):  # type: ignore[misc]
            break
        check_for_others(path)
        values = seen(ModelFolder(path))
        assert len(values) == 1, step
        found.append(values.pop())
        publish(ModelFolder(path), 2)  # goes on, and clears up
        assert names(path) == {"a", "b", "model_index.json"}
        shutil.rmtree(path)
    assert found == sorted(found)
    assert set(found) == {1, 2}
    assert len(found) > 30


def check_for_others(path: Path) -> None:
    """A program that knows nothing of publications finds no index, or all that it names."""
    if (path / "model_index.json").is_file():
        value = read_json(path / "model_index.json")["_value"]
        assert {read_json(path / name / "config.json")["value"] for name in ("a", "b")} == {value}


def pending(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    """A folder whose writer was killed right after it had decided."""
    publish(ModelFolder(path), 1)

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_move", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(ModelFolder(path), 2)
    return ModelFolder(path)


def test_what_was_decided_is_completed_by_the_next_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seen(pending(tmp_path / "m", monkeypatch)) == {2}
    assert names(tmp_path / "m") == {"a", "b", "model_index.json"}


def test_what_another_user_left_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pending(tmp_path / "m", monkeypatch)
    (tmp_path / "m" / ".publishing").chmod(0o777)
    with pytest.raises(ValueError, match=r"was being replaced .* as the user who trained it"):
        folder.index()
    shutil.rmtree(tmp_path / "m" / ".publishing")
    (tmp_path / "m" / ".publishing").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="was being replaced"):
        folder.has("a")
    assert names(tmp_path) == {"m"}


def test_names_in_a_pending_index_stay_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pending(tmp_path / "m", monkeypatch)
    (tmp_path / "precious").mkdir()
    index = tmp_path / "m" / "model_index.json"
    index.write_text('{"_value": 1, "a": ["x", "y"], "b": ["x", "y"], "../precious": ["x", "y"]}')
    with pytest.raises(ValueError, match="can be no folder in it"):
        folder.index()
    assert names(tmp_path) == {"m", "precious"}


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    publish(ModelFolder(tmp_path / "m"), 1)
    for name in (".a.new", ".a.old", ".publishing.x.partial"):
        (tmp_path / "m" / name).symlink_to(tmp_path / "precious")
    (tmp_path / "m" / "a").rename(tmp_path / "elsewhere")
    (tmp_path / "m" / "a").symlink_to(tmp_path / "precious")
    publish(ModelFolder(tmp_path / "m"), 2)
    assert (tmp_path / "precious" / "file").read_text() == "mine"
    assert not (tmp_path / "m" / "a").is_symlink()
    assert seen(ModelFolder(tmp_path / "m")) == {2}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        publish(ModelFolder(tmp_path / "m"), 1)
    finally:
        os.umask(before)
    for path in (tmp_path / "m").rglob("*"):
        wanted = (0o777 if path.is_dir() else 0o666) & ~mask
        assert path.stat().st_mode & 0o777 == wanted, path


def test_a_failed_block_changes_nothing(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path / "m")
    publish(folder, 1)

    def broken() -> None:
        with folder.publishing():
            publish(folder, 2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert seen(folder) == {1}
    assert names(tmp_path / "m") == {"a", "b", "only_old", "model_index.json"}


def test_a_reader_and_a_writer_wait_for_each_other(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path / "m")
    publish(folder, 1)
    writer = os.fork()
    if writer == 0:
        for turn in range(60):
            publish(ModelFolder(tmp_path / "m"), 1 + turn % 2)
        os._exit(0)
    found = set()
    while os.waitpid(writer, os.WNOHANG)[0] == 0:
        with folder.steady():
            values = seen(folder)
        assert len(values) == 1
        found |= values
    assert found == {1, 2}


def test_offloaded_weights_are_those_that_were_opened(tmp_path: Path) -> None:
    publish(ModelFolder(tmp_path / "m"), 1, weights=True)
    offload = Offload(torch.device("cpu"))
    folder = ModelFolder(tmp_path / "m", offload=offload)
    network = folder.load("a", lambda _: nn.Linear(2, 2, bias=False), None)  # type: ignore[arg-type]
    assert float(network(torch.ones(2))[0]) == 2
    publish(ModelFolder(tmp_path / "m"), 2, weights=True)
    other = folder.load("b", lambda _: nn.Linear(2, 2, bias=False), None)  # type: ignore[arg-type]
    other(torch.ones(2))
    with pytest.raises(ValueError, match="was replaced after it was opened"):
        network(torch.ones(2))
