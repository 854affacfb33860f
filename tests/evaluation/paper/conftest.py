"""A folder of tiny models as the paper's tables compare them, and a lab of them."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_model_folder, with_autoregressive_prior
from unclip.data.world.scene import WorldConfig
from unclip.evaluation.features.extractor import NetworkExtractor, open_extractor
from unclip.evaluation.features.judge import of_judge
from unclip.evaluation.judge.network import Judge
from unclip.evaluation.paper.lab import Lab
from unclip.evaluation.paper.models import Models
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderSettings, DecoderStage
from unclip.storage.folder import ModelFolder

WORLD = WorldConfig(
    max_objects=2, sizes=("medium", "large"), textures=("plain",), styles=("plain",)
)


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bundled` with both priors, `glide` and `text-embedding`, all with random weights."""
    root = tmp_path_factory.mktemp("models")
    with_autoregressive_prior(tiny_model_folder(root / "bundled"))
    for name, condition in (("glide", "caption"), ("text-embedding", "text_embedding")):
        shutil.copytree(root / "bundled", root / name)
        folder = ModelFolder(root / name)
        settings = DecoderSettings(
            (16, 32), layers=1, head_width=16, groups=8, context_width=32, prediction_type="sample"
        )
        settings = replace(settings, condition=condition)  # type: ignore[arg-type]
        torch.manual_seed(1)
        stage = DecoderStage.build(settings, FrozenCLIP.load(folder), 16)
        for parameter in stage.network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        stage.save(folder)
    return root


@pytest.fixture(scope="session")
def models(models_folder: Path) -> Models:
    return Models(models_folder, "cpu", "fp32")


@pytest.fixture
def lab(models: Models, judge: Judge) -> Iterator[Lab]:
    with make_lab(models, judge) as made:
        yield made


def make_lab(models: Models, judge: Judge, **options: Any) -> Lab:
    """A lab of 16 images at the decoder's own size."""
    device = models.bundled.device
    extractors = [
        open_extractor("clip", models.bundled, device),
        NetworkExtractor("judge", of_judge(judge), device),
    ]
    given = {"n": 16, "batch": 16, "size": 16, "steps": "fast"} | options
    return Lab(models, judge, extractors, WORLD, **given)
