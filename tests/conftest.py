"""What tests of several modules share: a tiny model folder that nobody trained."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_model_folder, with_autoregressive_prior
from unclip.data.world.scene import WorldConfig
from unclip.data.world.world import World

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of what tests start, too


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder, 16 → 32 px, with random weights. Not to be written into."""
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_priors(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an autoregressive prior as well. Not to be written into."""
    path = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "priors"))
    return with_autoregressive_prior(path)


@pytest.fixture
def tiny_copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """A folder of 24 small images, a .txt with the caption beside each."""
    return captioned_folder(tmp_path / "my-images", 24)


def captioned_folder(path: Path, count: int, size: int = 32) -> Path:
    """Scenes of the built-in world as anybody's own images: NNN.png and NNN.txt."""
    from PIL import Image

    path.mkdir()
    world = World(WorldConfig(size=size))
    for index in range(count):
        pixels, caption = world[index]
        Image.fromarray(pixels).save(path / f"{index:03}.png")
        (path / f"{index:03}.txt").write_text(caption + "\n")
    return path
