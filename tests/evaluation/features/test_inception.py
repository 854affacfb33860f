"""Inception v3: the published tensors by name, and its blocks against their definition."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from unclip.evaluation.features.extractor import open_extractor
from unclip.evaluation.features.inception import InceptionV3, _e
from unclip.files import write_json, write_safetensors


@pytest.fixture(scope="module")
def network() -> InceptionV3:
    torch.manual_seed(0)
    return InceptionV3().eval()


def test_its_tensors_are_the_published_ones(network: InceptionV3) -> None:
    # 27,161,264 parameters less the auxiliary classifier's and the last layer's (torchvision).
    assert sum(p.numel() for p in network.parameters()) == 27_161_264 - 3_326_696 - 2_049_000
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert len(shapes) == 94 * 3  # convolutions, each with weight and bias of its normalisation
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert shapes["Mixed_6c.branch7x7dbl_4.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_7c.branch3x3dbl_3b.bn.weight"] == (384,)


def test_a_block_is_its_branches(network: InceptionV3) -> None:
    """The last block, whose branches fork, convolution by convolution."""
    block = network.Mixed_7b
    x = torch.randn(1, 1280, 4, 4)

    def conv(name: str, h: torch.Tensor, padding: tuple[int, int] = (0, 0)) -> torch.Tensor:
        one = block.get_submodule(name)
        h = F.conv2d(h, one.conv.weight, padding=padding)
        norm = one.bn
        h = F.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=0.001)
        return F.relu(h)

    with torch.no_grad():
        middle = conv("branch3x3_1", x)
        double = conv("branch3x3dbl_2", conv("branch3x3dbl_1", x), (1, 1))
        expected = [
            conv("branch1x1", x),
            conv("branch3x3_2a", middle, (0, 1)),
            conv("branch3x3_2b", middle, (1, 0)),
            conv("branch3x3dbl_3a", double, (0, 1)),
            conv("branch3x3dbl_3b", double, (1, 0)),
            conv("branch_pool", F.avg_pool2d(x, 3, 1, 1)),
        ]
        torch.testing.assert_close(block(x), torch.cat(expected, dim=1), atol=1e-4, rtol=1e-4)


def test_the_network_of_fid_pools_otherwise() -> None:
    ones = torch.ones(1, 4, 3, 3)
    corner = {}
    for pool in ("mean", "mean of pixels", "max"):
        block = _e(4, pool)
        block.branch_pool = torch.nn.Identity()
        corner[pool] = block._pooled(ones)[0, 0, 0, 0].item()
    assert corner == {"mean": pytest.approx(4 / 9), "mean of pixels": 1.0, "max": 1.0}
    fid = InceptionV3("fid")
    assert [fid.Mixed_6e.pool, fid.Mixed_7b.pool, fid.Mixed_7c.pool] == [
        "mean of pixels", "mean of pixels", "max",
    ]  # fmt: skip


def test_a_folder_opens_without_what_it_does_not_need(network: InceptionV3, tmp_path: Path) -> None:
    state = dict(network.state_dict())
    more = {"fc.weight": torch.zeros(1008, 2048), "AuxLogits.conv0.bn.weight": torch.ones(128)}
    counter = {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(7)}
    write_safetensors(tmp_path / "model.safetensors", {**state, **more, **counter})
    write_json(tmp_path / "config.json", {"model_type": "inception_v3", "variant": "fid"})
    extractor = open_extractor(tmp_path, device="cpu")
    assert (extractor.size, extractor.dimensions) == (299, 2048)
    found = extractor(torch.rand(1, 3, 40, 40) * 2 - 1)
    assert found.shape == (1, 2048)
    write_json(tmp_path / "config.json", {"model_type": "inception_v3"})
    assert open_extractor(tmp_path, device="cpu").hash != extractor.hash
    write_json(tmp_path / "config.json", {"model_type": "inception_v3", "variant": "v4"})
    with pytest.raises(ValueError, match="variant is 'v4'; it must be one of torchvision, fid"):
        open_extractor(tmp_path, device="cpu")
