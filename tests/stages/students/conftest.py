from pathlib import Path

import pytest

from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderStage
from unclip.storage.folder import ModelFolder


@pytest.fixture
def teacher(clip: FrozenCLIP, tiny_model: Path) -> DecoderStage:
    """A decoder that students learn from."""
    return DecoderStage.load(ModelFolder(tiny_model), clip)
