"""Operations and kept bytes, against what can be counted by hand."""

import pytest
import torch
from torch import Tensor, nn

from unclip.batch import Batch
from unclip.training.counting import counted


def test_a_linear_layer() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1))

    def loss(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": network(batch["images"].flatten(1)).mean()}

    batch = {"images": torch.randn(2, 6, 1, 1), "captions": [""] * 2}
    found = counted(loss, network, batch, torch.device("cpu"))
    # Two operations a weight forward, two for its gradient, two for its input's, but for the first.
    assert found.operations == 2 * (3 * 5 + 2 * 30)
    assert found.kept == pytest.approx(4 * (6 + 5), abs=4)  # the inputs of both layers, fp32
    assert all(p.grad is None for p in network.parameters())
