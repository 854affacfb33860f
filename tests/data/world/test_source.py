"""The built-in world as a source."""

import pytest
import torch

from unclip.data.captions import ENDLESS
from unclip.data.registry import open_source
from unclip.data.world.source import WorldSource


def test_world_source_is_the_world() -> None:
    source = open_source("emoji:shapes", size=32, seed=3)
    assert isinstance(source, WorldSource)
    assert len(source) == ENDLESS
    sample = source[17]
    scene = source.world.scene(17)
    assert sample["caption"] == scene.caption
    pixels = torch.from_numpy(source.world.render(scene)).permute(2, 0, 1)
    assert torch.equal(sample["image"], pixels)
    assert sample["image"].is_contiguous()
    assert "without end" in str(source.check())
    assert source.fingerprint() != open_source("emoji:shapes", size=32, seed=4).fingerprint()
    assert [source.caption(i) for i in range(5)] == [source[i]["caption"] for i in range(5)]
    with pytest.raises(IndexError):
        source[-1]
