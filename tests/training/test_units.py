"""Blocks that are computed again, or compiled: the same numbers."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.runs import recipe_of, spec_of
from unclip.acceleration.compiling import check_compiler
from unclip.networks.layers import Unit
from unclip.stages.catalogue import STAGES
from unclip.training.job import Folders, build_job
from unclip.training.loop import Trainer
from unclip.training.parallel import Alone
from unclip.training.units import checkpoint_units, compile_units, units_of

CPU = torch.device("cpu")


def gradients(stage: str, model: Path, steps: int = 2, **training: Any) -> dict[str, Tensor]:
    """Losses of some steps, and the gradients of the next one."""
    torch.manual_seed(0)
    folders = Folders(model, model.parent / "none")
    recipe = recipe_of(stage, **training)
    if stage in ("prior", "decoder"):  # dropout is computed again too
        recipe = type(recipe)(
            type(recipe.network)(**{**vars(recipe.network), "dropout": 0.3}),
            recipe.data, recipe.training, recipe.optimiser,
        )  # fmt: skip
    trainer = Trainer(build_job(spec_of(stage), recipe, folders, Alone(CPU)))
    found = {f"loss {k}": trainer.step()["loss"].detach() for k in range(steps)}
    trainer.gradients()
    found |= {k: p.grad for k, p in trainer.network.named_parameters() if p.grad is not None}
    assert [*trainer.network.state_dict()] == [*dict(trainer.network.named_parameters())]
    return found


@pytest.mark.parametrize("stage", [*STAGES, "judge"])
def test_what_is_computed_again_is_the_same_to_the_last_bit(stage: str, model: Path) -> None:
    kept = gradients(stage, model)
    again = gradients(stage, model, checkpoint_activations=True)
    assert kept.keys() == again.keys()
    for key, value in kept.items():
        assert torch.equal(value, again[key]), key


def test_less_is_kept_for_the_backward_pass() -> None:
    from unclip.networks.diffusion_prior import DiffusionPrior, DiffusionPriorConfig

    network = DiffusionPrior(DiffusionPriorConfig(2, 16, 4, 32, 8))
    assert len([*units_of(network)]) == 4
    text = {"text_embeddings": torch.ones(8, 32), "text_hidden_states": torch.ones(8, 8, 32)}

    def kept() -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.ones(8, 32), torch.ones(8), **text).sum().backward()
        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
        return sum(size for place, size in sizes.items() if place not in weights)

    before = kept()
    checkpoint_units(network)
    after = kept()
    checkpoint_units(network)  # changes nothing more
    assert kept() == after < before / 3


@pytest.mark.parametrize("stage", ["clip", "prior"])
def test_compiled_blocks_compute_the_same(
    stage: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the compiler's own code, which the next test has a little of."""
    backend = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", backend)
    options: Any = {"steps": 1}
    plain = gradients(stage, model, **options)
    again = gradients(stage, model, compile=True, checkpoint_activations=True, **options)
    for key, value in plain.items():
        torch.testing.assert_close(again[key], value, rtol=1e-4, atol=1e-5, msg=key)


class Small(Unit):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(self.linear(x))


@pytest.mark.slow
def test_compiled_code_computes_the_same(tmp_path: Path) -> None:
    """Whatever instructions the code in torch's cache was compiled for by an earlier process."""
    try:
        check_compiler(CPU, "skip")
    except ValueError as error:
        pytest.skip(str(error))
    code = "from tests.training.test_units import compile_small; compile_small()"
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    for instructions in ({"ATEN_CPU_CAPABILITY": "avx2"}, {}):
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment | instructions,
            cwd=Path(__file__).parents[2],
            check=True,
        )


def compile_small() -> None:
    torch.manual_seed(0)
    block, x = Small(), torch.randn(3, 4)
    found = []
    for compiled in (False, True):
        if compiled:
            compile_units(block, CPU)
        block.zero_grad()
        block(x).square().sum().backward()
        found.append([p.grad for p in block.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any) -> Any:
        def run(*_: Any) -> None:
            raise RuntimeError("No working C++ compiler found.\nSet CXX")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ValueError, match=r"cannot compile .*\(No working.*leave training\.c"):
        compile_units(nn.Linear(1, 1), CPU)
