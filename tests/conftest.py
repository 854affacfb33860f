"""What tests of several modules share: a tiny model folder that nobody trained."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from unclip.data.emoji import World, WorldConfig
from unclip.models.folder import ModelFolder
from unclip.stages.autoregressive_prior import (
    AutoregressivePriorSettings,
    AutoregressivePriorStage,
)
from unclip.stages.clip import ClipSettings, ClipStage
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderSettings, DecoderStage
from unclip.stages.diffusion_prior import PriorSettings, PriorStage
from unclip.stages.upsampler import UpsamplerSettings, UpsamplerStage

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder, 16 → 32 px, with random weights. Not to be written into."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    folder = ModelFolder(path)
    world = World(WorldConfig(size=32))
    torch.manual_seed(0)
    clip_stage = ClipStage.build(
        ClipSettings("tiny", vocab_size=560, context_length=24),
        [world.scene(i).caption for i in range(50)],
    )
    clip_stage.save(folder)
    clip = FrozenCLIP.load(folder)
    images = torch.rand(16, 3, 16, 16) * 2 - 1
    prior = PriorSettings(num_layers=1, num_attention_heads=2, attention_head_dim=16, statistics=16)
    decoder = DecoderSettings(
        (16, 32), layers=1, head_width=16, groups=8, context_width=32, prediction_type="sample"
    )
    upsampler = UpsamplerSettings(2, (16, 32), groups=8, prediction_type="sample")
    for stage in (
        PriorStage.build(prior, clip, [{"images": images}]),
        DecoderStage.build(decoder, clip, 16),
        UpsamplerStage.build(upsampler, 32),
    ):
        _awaken(stage.network)
        stage.save(folder)
    return path


@pytest.fixture(scope="session")
def tiny_priors(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an autoregressive prior as well. Not to be written into."""
    path = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "priors"))
    folder = ModelFolder(path)
    images = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    settings = AutoregressivePriorSettings(
        1, 2, 16, reconstruction_error=0.3, buckets=8, statistics=16
    )
    torch.manual_seed(0)
    batch = {"images": images, "captions": [f"a red circle {i}" for i in range(16)]}
    stage = AutoregressivePriorStage.build(settings, FrozenCLIP.load(folder), [batch])
    _awaken(stage.network)
    stage.save(folder)
    return path


@pytest.fixture
def tiny_copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@torch.no_grad()
def _awaken(network: nn.Module) -> None:
    """Give layers that start at zero weights, so that images depend on everything."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)


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
