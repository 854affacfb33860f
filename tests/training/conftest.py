"""What tests of training share: a model folder beside which every stage can be trained."""

import shutil
from pathlib import Path

import pytest

from tests.tiny import with_decoder


@pytest.fixture(scope="session")
def model(tiny_priors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a decoder of the size of scenes. Not to be written into."""
    path = tmp_path_factory.mktemp("models") / "trained"
    return with_decoder(Path(shutil.copytree(tiny_priors, path)), 32)
