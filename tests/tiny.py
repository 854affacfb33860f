"""A tiny model folder that nobody trained; recipes that train in seconds; a few steps of them."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unclip.batch import Batch
from unclip.config import dump_toml, merge
from unclip.data.world.scene import WorldConfig
from unclip.data.world.world import World
from unclip.diffusion.prediction import Noise
from unclip.diffusion.samplers import noise_from
from unclip.pixels import to_signed
from unclip.stages.autoregressive_prior import (
    AutoregressivePriorSettings,
    AutoregressivePriorStage,
)
from unclip.stages.base import Stage
from unclip.stages.catalogue import STAGES
from unclip.stages.clip import ClipSettings, ClipStage
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderSettings, DecoderStage
from unclip.stages.diffusion_prior import PriorSettings, PriorStage
from unclip.stages.recipe import Recipe
from unclip.stages.spec import parse_recipe
from unclip.stages.upsampler import UpsamplerSettings, UpsamplerStage
from unclip.storage.folder import ModelFolder
from unclip.training.checkpoint import checkpoints
from unclip.training.parts import contents, fill

_WORLD = {"max_objects": 1, "textures": ["plain"], "styles": ["plain"]}
_NETWORKS: dict[str, dict[str, Any]] = {
    "clip": {"size": "tiny", "vocab_size": 560, "context_length": 24, "captions": 200},
    "prior": {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16, "statistics": 8},
    "ar-prior": {
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "statistics": 16,
        "buckets": 32,
    },
    "decoder": {
        "widths": [16, 32],
        "layers": 1,
        "head_width": 16,
        "groups": 8,
        "context_width": 32,
        "dropout": 0.1,
    },
    "distilled-decoder": {},
    "few-step-decoder": {},
    "upsampler": {"factor": 2, "widths": [16, 32], "groups": 8, "crop": 2},
    "upsampler-1024": {"factor": 2, "widths": [16, 32], "layers": 1, "groups": 8, "crop": 2},
}


def tiny_model_folder(path: Path) -> Path:
    """Write a whole model folder, 16 → 32 px, with random weights; the path again."""
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


def with_autoregressive_prior(path: Path, seed: int = 0) -> Path:
    """Give a tiny model folder an autoregressive prior as well; the path again."""
    folder = ModelFolder(path)
    images = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    settings = AutoregressivePriorSettings(
        1, 2, 16, reconstruction_error=0.3, buckets=8, statistics=16
    )
    torch.manual_seed(seed)
    batch = {"images": images, "captions": [f"a red circle {i}" for i in range(16)]}
    stage = AutoregressivePriorStage.build(settings, FrozenCLIP.load(folder), [batch])
    _awaken(stage.network)
    stage.save(folder)
    return path


def with_decoder(path: Path, size: int) -> Path:
    """Give a tiny model folder a decoder of so many pixels a side; the path again."""
    folder = ModelFolder(path)
    torch.manual_seed(0)
    settings = DecoderSettings(
        (16, 32),
        layers=1,
        head_width=16,
        groups=8,
        context_width=32,
        prediction_type="v_prediction",
    )  # a student of few steps cannot learn from noise
    stage = DecoderStage.build(settings, FrozenCLIP.load(folder), size)
    _awaken(stage.network)
    stage.save(folder)
    return path


@torch.no_grad()
def _awaken(network: nn.Module) -> None:
    """Give layers that start at zero weights, so that images depend on everything."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)


def tiny_recipe(stage: str, **tables: dict[str, Any]) -> Recipe[Any]:
    """The stage's defaults, scaled down, with `tables` over them."""
    small = {
        "network": _NETWORKS[stage],
        "data": {"source": "emoji:shapes", "size": 32, "workers": 0, "world": _WORLD},
        "training": {"steps": 6, "batch_size": 8, "preview_every": 0, "checkpoint_every": 2},
        "optimiser": {"learning_rate": 1e-3, "warmup": 2},
    }
    small["training"]["precision"] = "fp32"
    return parse_recipe(STAGES[stage], merge(small, tables), "test")


def newest_checkpoint(run: Path) -> dict[str, torch.Tensor]:
    """The whole tensors of a run's newest checkpoint, whoever wrote it."""
    found = contents(checkpoints(run / "checkpoints")[-1])
    whole = {name: torch.empty(found.shape(name)) for name in found.pieces}
    fill(found, whole)
    return whole


@cache
def scenes(count: int, size: int = 32, first: int = 0) -> Batch:
    """Some captioned images of the built-in world: (count, 3, size, size) in [-1, 1]."""
    world = World(WorldConfig(size=size))
    pairs = [world[first + i] for i in range(count)]
    images = torch.stack([torch.from_numpy(pixels).permute(2, 0, 1) for pixels, _ in pairs])
    return {"images": to_signed(images), "captions": [caption for _, caption in pairs]}


def learns(stage: Stage, batch: Batch, steps: int = 30, rate: float = 2e-3) -> tuple[float, float]:
    """Train on one batch; its loss, with the same noise, before and after."""

    def loss(seed: int) -> torch.Tensor:
        total: torch.Tensor = stage.loss(batch, torch.Generator().manual_seed(seed))["loss"]
        return total

    def measure() -> float:
        with torch.no_grad():
            return sum(loss(1000 + k).item() for k in range(4)) / 4

    stage.network.train()
    optimiser = torch.optim.AdamW(stage.network.parameters(), lr=rate)
    before = measure()
    for step in range(steps):
        optimiser.zero_grad()
        loss(step).backward()
        optimiser.step()
    after = measure()
    stage.network.eval()
    return before, after


def noise(*seeds: int, rows: int = 1) -> Noise:
    """Noise from one stream per image, which draws for `rows` rows in turn."""
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]
    return noise_from([stream for stream in streams for _ in range(rows)])


_UNET = {"widths": [16, 32], "layers": 1, "groups": 8, "prediction_type": "sample"}
_WHOLE: dict[str, dict[str, Any]] = {
    "clip": {"size": "tiny", "vocab_size": 560},
    "prior": {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16},
    "decoder": {**_UNET, "head_width": 16, "context_width": 32},
    "upsampler": {**_UNET, "crop": 2},
}


def tiny_recipes(path: Path, steps: int = 4) -> str:
    """A file of recipes that take a moment: 32 px, enlarged to 64."""
    training = {"steps": steps, "batch_size": 8, "preview_every": 0, "precision": "fp32"}
    path.write_text(
        dump_toml(
            {
                name: {
                    "network": network,
                    "data": {"size": 64 if name == "upsampler" else 32, "workers": 0},
                    "training": {**training, "checkpoint_every": 2},
                }
                for name, network in _WHOLE.items()
            }
        )
    )
    return str(path)
