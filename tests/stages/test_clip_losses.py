"""CLIP's two losses: their values, and what several processes make of them.

Shapes: N rows of a process, M rows of all, E embedding width.
"""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny import learns, scenes, tiny_recipe
from unclip.checks import Notice
from unclip.stages.clip import ClipSettings, ClipStage, contrastive_loss, sigmoid_loss
from unclip.stages.conditioning import FrozenCLIP
from unclip.storage.folder import ModelFolder
from unclip.training.parallel import start_parallel

M, E = 12, 7
LEARNED = {"softmax": (5.0,), "sigmoid": (5.0, -3.0)}
LOSSES: dict[str, Callable[..., dict[str, Tensor]]] = {
    "softmax": contrastive_loss,
    "sigmoid": sigmoid_loss,
}


def gradients(kind: str, rank: int = 0, count: int = 1, replicas: Any = None) -> list[Tensor]:
    """Loss and gradients by this process's rows of M pairs and by the learned numbers."""
    generator = torch.Generator().manual_seed(0)
    part = slice(rank * M // count, (rank + 1) * M // count)
    rows = [torch.randn(M, E, generator=generator)[part].requires_grad_() for _ in range(2)]
    learned = [torch.tensor(value, requires_grad=True) for value in LEARNED[kind]]
    loss = LOSSES[kind](*rows, *learned, replicas)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    return [loss.detach(), *(x.grad for x in (*rows, *learned) if x.grad is not None)]


def work(rank: int, count: int, out: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", f"file://{out / 'meeting'}", rank=rank, world_size=count
    )
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(count))
    here = start_parallel("cpu")
    torch.save({kind: gradients(kind, rank, count, here) for kind in LOSSES}, out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distribution")
def test_two_processes_have_the_gradients_of_the_whole_batchs_loss(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=work, args=(rank, 2, tmp_path)) for rank in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(100)
        assert process.exitcode == 0
    of_rank = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for kind in LOSSES:
        whole, parts = gradients(kind), list(zip(*(found[kind] for found in of_rank), strict=True))
        assert len(whole) == 3 + len(LEARNED[kind])
        for number, (one, two) in enumerate(zip(whole, parts, strict=True)):
            # Rows get the gradients of both processes' losses, whose mean is the whole one's.
            both = torch.cat(two) / 2 if number in (1, 2) else torch.stack(two).mean(dim=0)
            torch.testing.assert_close(both, one, rtol=0, atol=1e-6, msg=f"{kind} {number}")


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that anything gives, and of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


class Third:
    """The third of so many processes; the others have the same rows."""

    rank = 2

    def __init__(self, count: int) -> None:
        self.count = count

    def gather(self, rows: Tensor) -> Tensor:
        return rows.repeat(self.count, 1)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_process_has_the_similarities_of_its_own_rows_only(kind: str) -> None:
    rows, columns, count = 8, 64, 8
    pairs = [torch.randn(rows, E, requires_grad=True) for _ in range(2)]
    learned = [torch.tensor(value, requires_grad=True) for value in LEARNED[kind]]
    with Largest() as seen:
        LOSSES[kind](*pairs, *learned, Third(count))["loss"].backward()
    assert seen.largest == rows * columns  # and not columns²


def test_the_sigmoid_loss_is_each_pairs_own() -> None:
    torch.manual_seed(0)
    z_i, z_t = torch.randn(5, E), torch.randn(5, E)
    expected = torch.zeros(())
    for i in range(5):
        for j in range(5):
            likeness = 4.0 * F.cosine_similarity(z_i[i], z_t[j], dim=0) - 2.0
            right = 1.0 if i == j else -1.0
            expected = expected - (1 / (1 + torch.exp(-right * likeness))).log() / 5
    found = sigmoid_loss(z_i, z_t, torch.tensor(4.0), torch.tensor(-2.0))
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert (found["scale"].item(), found["bias"].item()) == (4.0, -2.0)
    assert sigmoid_loss(z_i, z_i, torch.tensor(9.0), torch.tensor(-5.0))["accuracy"].item() == 1.0


def built(loss: str) -> ClipStage:
    torch.manual_seed(0)
    settings = tiny_recipe("clip", network={"loss": loss}).network
    return ClipStage.build(settings, scenes(64)["captions"])


def test_clip_learns_by_the_sigmoid_loss_and_its_folder_keeps_the_bias(tmp_path: Path) -> None:
    stage, folder = built("sigmoid"), ModelFolder(tmp_path)
    before, after = learns(stage, scenes(16), rate=1e-3)
    assert after < 0.6 * before
    stage.save(folder)
    bias = stage.network.logit_bias
    assert bias is not None
    for tower in ("text_encoder", "image_encoder"):
        assert folder.config(tower)["logit_bias_init_value"] == bias.item() != -10.0
    again = ClipStage.load(folder)
    losses = [one.loss(scenes(8), torch.Generator())["loss"].item() for one in (stage, again)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    FrozenCLIP.load(folder)  # as prior and decoder read it


def test_a_folder_has_a_bias_only_where_it_is_used(tmp_path: Path) -> None:
    stage, folder = built("softmax"), ModelFolder(tmp_path)
    assert not any("bias" in name for name in stage.network.state_dict() if "logit" in name)
    stage.save(folder)
    assert not [key for key in folder.config("text_encoder") if "logit_bias" in key]
    assert "bias" not in ClipStage.load(folder).loss(scenes(4), torch.Generator())


def test_training_goes_on_by_the_other_loss(tmp_path: Path) -> None:
    stage, folder = built("softmax"), ModelFolder(tmp_path)
    stage.save(folder)
    with pytest.warns(Notice, match="by the softmax loss and goes on by the sigmoid one"):
        other = ClipStage.load(folder, "sigmoid")
    assert other.network.logit_bias is not None
    assert other.network.logit_scale.item() == pytest.approx(stage.network.logit_scale.item())
    other.save(folder)
    with pytest.warns(Notice, match="by the sigmoid loss and goes on by the softmax one"):
        assert ClipStage.load(folder, "softmax").network.logit_bias is None


def test_only_two_losses() -> None:
    with pytest.raises(ValueError, match=r"loss.*softmax.*sigmoid"):
        tiny_recipe("clip", network={"loss": "triplet"})
    assert ClipSettings().loss == "softmax"
