"""What tests of several stages share: the tiny model's CLIP."""

from pathlib import Path

import pytest

from unclip.stages.conditioning import FrozenCLIP
from unclip.storage.folder import ModelFolder


@pytest.fixture(scope="module")
def clip(tiny_model: Path) -> FrozenCLIP:
    return FrozenCLIP.load(ModelFolder(tiny_model))
