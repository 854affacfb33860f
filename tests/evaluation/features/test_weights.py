"""Renamed weights are as strict as others; a convolution with its normalisation in one."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unclip.evaluation.features.weights import Norm, convolved, fill
from unclip.files import write_safetensors

GOOD = {"theirs.weight": torch.ones(2, 3), "theirs.bias": torch.zeros(2)}


def rename(key: str) -> str | None:
    return None if key.startswith("head.") else key.removeprefix("theirs.")


def test_what_is_not_wanted_is_left_out(tmp_path: Path) -> None:
    tensors = {**GOOD, "theirs.weight": torch.ones(2, 3).half(), "head.bias": torch.zeros(9)}
    write_safetensors(tmp_path / "model.safetensors", tensors)
    network = nn.Linear(3, 2, device="meta")
    fill(network, tmp_path, rename)
    assert network.weight.dtype == torch.float32
    assert torch.equal(network(torch.ones(1, 3)), torch.full((1, 2), 3.0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"theirs.bias": torch.zeros(3)}, r"'theirs.bias' is .*32 \(3,\), not floats \(2,\)"),
        ({"theirs.bias": torch.zeros(2).int()}, "not floats"),
        ({"theirs.bias": torch.full((2,), torch.nan)}, "values that are not finite"),
        ({"other": torch.zeros(1)}, "a tensor 'other' that this network does not have"),
        ({"bias": torch.zeros(2)}, "does not have a second time"),
        ({"theirs.bias": None}, "lacks the tensor 'bias'"),
        ({"theirs.bias": None, "theirs.weight": None}, "lacks the tensor 'bias' and 1 more"),
    ],
)
def test_what_is_wrong_is_named(
    change: dict[str, torch.Tensor | None], says: str, tmp_path: Path
) -> None:
    tensors = {key: t for key, t in {**GOOD, **change}.items() if t is not None}
    write_safetensors(tmp_path / "model.safetensors", tensors or {"head.x": torch.zeros(1)})
    with pytest.raises(ValueError, match=says):
        fill(nn.Linear(3, 2, device="meta"), tmp_path, rename)


def test_normalisation_is_part_of_the_convolution() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 6, 3, 2, groups=2, bias=False), Norm(6)
    for tensor in norm.state_dict().values():
        tensor.uniform_(0.5, 2)
    x = torch.randn(2, 4, 9, 9)
    expected = F.batch_norm(
        F.conv2d(F.pad(x, (1, 1, 1, 1)), conv.weight, None, 2, 0, 1, 2),
        norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3,
    )  # fmt: skip
    torch.testing.assert_close(convolved(x, conv, norm, 1), expected, atol=1e-5, rtol=1e-5)
