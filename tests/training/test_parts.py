"""Checkpoints of several processes: each writes a part, and any number of others read them."""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.runs import processes
from unclip.files import read_facts
from unclip.training import checkpoint
from unclip.training.best import Measured
from unclip.training.checkpoint import State, checkpoints, resume, save
from unclip.training.ema import EMA
from unclip.training.parallel import Alone, Parallel, start_parallel

needs_processes = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform != "linux", reason="needs gloo and forks"
)


class Network(nn.Module):
    """Weights whose rows do not divide evenly, fewer of them than processes, and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.single = nn.Parameter(torch.randn(1, 4))
        self.scalar = nn.Parameter(torch.randn(()))


def state(here: Parallel | None = None, shard: bool = False, seed: int = 0, step: int = 7) -> State:
    """After a step of the optimiser and two measurements; with shards of FSDP2 or without."""
    torch.manual_seed(seed)
    network = Network()
    if shard:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        assert here is not None
        mesh = init_device_mesh("cpu", (here.world_size,))
        fully_shard(network, mesh=mesh, ignored_params={network.scalar})
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
    for parameter in network.parameters():
        parameter.grad = parameter.detach() * 2
    ema = EMA(network, 0.9)
    optimiser.step()
    made = State(network, optimiser, ema, here or Alone(torch.device("cpu")), step)
    made.best.offer(Measured(3, 0.5, 0.4), ema.average)
    ema.update(step)
    return made


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def check(folder: Path, here: Parallel | None = None, shard: bool = False) -> None:
    """A state that goes on from this checkpoint is the one that was saved, to the bit."""
    fresh = state(here, shard, seed=1, step=0)
    fresh.optimiser.state.clear()
    resume(fresh, folder)
    expected = state().tensors()
    found = {name: whole(tensor) for name, tensor in fresh.tensors().items()}
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert (fresh.step, fresh.best.lowest) == (7, Measured(3, 0.5, 0.4))


def together(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Do `work(this process's Parallel, *arguments)` in so many processes."""
    with processes(count, begin, work, *arguments):
        pass


def begin(work: Callable[..., None], *arguments: Any) -> None:
    work(start_parallel("cpu"), *arguments)


def read_and_save(here: Parallel, place: Path, shard: bool, reads: str, saves: str) -> None:
    for name in reads.split():
        check(place / name, here, shard)
    if saves:
        save(state(here, shard), place / saves)


@needs_processes
def test_any_number_of_processes_reads_what_any_other_wrote(tmp_path: Path) -> None:
    save(state(), tmp_path / "one")
    together(2, read_and_save, tmp_path, False, "one", "two")
    together(3, read_and_save, tmp_path, True, "one two", "three-shards")
    together(2, read_and_save, tmp_path, True, "one two three-shards", "two-shards")
    together(3, read_and_save, tmp_path, False, "two two-shards three-shards", "")
    for name in ("one", "two", "two-shards", "three-shards"):
        check(tmp_path / name)
    (single,) = checkpoints(tmp_path / "one")
    (parts,) = checkpoints(tmp_path / "three-shards")
    assert (single.name, parts.name) == ("step-00000007.safetensors", "step-00000007")
    assert [file.name for file in sorted(parts.iterdir())] == [
        f"part-0000{number}-of-00003.safetensors" for number in (1, 2, 3)
    ]
    # Nobody gathers the whole, and nobody writes what another has written.
    for name in ("two", "two-shards"):
        (folder,) = checkpoints(tmp_path / name)
        sizes = [file.stat().st_size for file in folder.iterdir()]
        assert max(sizes) < 0.75 * sum(sizes)


def save_twice(here: Parallel, folder: Path) -> None:
    for step in (6, 7):
        save(state(here, step=step), folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 6 and 7, each by two processes."""
    folder = tmp_path_factory.mktemp("written")
    together(2, save_twice, folder)
    return folder


def delete(part: Path) -> None:
    part.unlink()


def truncate(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-4])


def flip(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-1] + b"\x99")


def exchange(part: Path) -> None:
    """By that of the checkpoint before."""
    shutil.copy(part.parents[1] / "step-00000006" / part.name, part)


def repeat(part: Path) -> None:
    """By the other one of the same checkpoint."""
    shutil.copy(part.with_name("part-00001-of-00002.safetensors"), part)


def stray(part: Path) -> None:
    shutil.copy(part, part.with_name("part-00003-of-00003.safetensors"))


@needs_processes
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (delete, r"step-00000007 is not whole: part-00002-of-00002\.safetensors is missing"),
        (truncate, r"part-00002-of-00002\.safetensors is not a whole safetensors file"),
        (flip, r"part-00002-of-00002\.safetensors is damaged: its tensor '.*' is not what was"),
        (exchange, r"damaged: part-00002-of-00002\.safetensors is of another checkpoint"),
        (repeat, r"step-00000007 is damaged: it does not hold all of its tensor '"),
        (stray, r"step-00000007 holds parts of several checkpoints"),
    ],
)
def test_a_damaged_part_is_said_by_name_and_the_checkpoint_before_it_taken(
    damage: Callable[[Path], None],
    said: str,
    written: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(written, folder)
    damage(folder / "step-00000007" / "part-00002-of-00002.safetensors")
    resumed = state()
    resume(resumed, folder)
    assert resumed.step == 6
    assert re.search(said + r".*; trying the checkpoint before it", capsys.readouterr().out)
    shutil.rmtree(folder / "step-00000006")
    with pytest.raises(ValueError, match=said + r".*no sound checkpoint before it"):
        resume(state(), folder)


def resume_damaged(here: Parallel, folder: Path) -> None:
    resumed = state(here)
    resume(resumed, folder)
    assert resumed.step == 6


@needs_processes
def test_what_one_process_finds_damaged_all_pass_over(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(written, folder)
    flip(folder / "step-00000007" / "part-00002-of-00002.safetensors")
    together(3, resume_damaged, folder)


def on_a_full_disk(here: Parallel, folder: Path, full: int) -> None:
    import safetensors.torch

    save(state(here, step=3), folder)

    def refuse(tensors: object, file: Path, facts: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    if here.rank == full:
        safetensors.torch.save_file = refuse
    with pytest.raises(ValueError, match=r"cannot write .*step-00000004: No space left on device"):
        save(state(here, step=4), folder)


@needs_processes
@pytest.mark.parametrize("full", [0, 1])
def test_where_one_process_cannot_write_all_say_so_and_nothing_is_left(
    full: int, tmp_path: Path
) -> None:
    together(2, on_a_full_disk, tmp_path, full)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def again(here: Parallel, folder: Path) -> None:
    save(state(here, seed=1), folder)
    save(state(here), folder)


@needs_processes
def test_a_step_that_is_written_again_is_replaced(tmp_path: Path) -> None:
    save(state(seed=2), tmp_path)
    together(2, again, tmp_path)
    check(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]
    (tmp_path / "step-00000007").rename(tmp_path / "step-00000007.before")  # killed in between
    check(tmp_path)
    save(state(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007.safetensors"]


def test_a_header_that_leads_astray(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save(state(), tmp_path)
    (file,) = checkpoints(tmp_path)
    facts = {key: value for key, value in read_facts(file).items() if key != "checksums"}
    for place in (
        "[[0, 0], [1]]",
        "[[0, 9], [5, 3]]",
        "[[-1, 0], [5, 3]]",
        "7",
        '["a", "b"]',
        "{}",
    ):
        pieces = f'{{"network.layer.weight": {place}}}'
        save_file(load_file(file), file, {**facts, "pieces": pieces})
        with pytest.raises(ValueError, match="does not say where its tensors belong"):
            resume(state(), tmp_path)
    save_file(load_file(file), file, {**facts, "pieces": '{"network.scalar": [[], []]}'})
    check(tmp_path)


def resident() -> int:
    """Bytes of this process's own memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def save_often(here: Parallel, folder: Path) -> None:
    network = nn.Linear(1024, 1024)  # 4 MiB, and as much of its average
    made = State(network, torch.optim.AdamW(network.parameters()), EMA(network, 0.9), here)
    for step in range(50):
        made.step = step
        save(made, folder)
        if step == 9:
            before = resident()
    assert resident() - before < 2**22


@needs_processes
@pytest.mark.parametrize("count", [1, 2])
def test_fifty_saves_take_no_more_memory_than_ten(count: int, tmp_path: Path) -> None:
    together(count, save_often, tmp_path)
    assert len(checkpoint.checkpoints(tmp_path)) == 2
