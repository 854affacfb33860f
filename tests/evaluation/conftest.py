"""A tiny pipeline and a judge that nobody trained, for tests of whole runs."""

from pathlib import Path

import pytest
import torch

from unclip import Pipeline
from unclip.evaluation.judge.network import Judge, JudgeConfig


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def judge() -> Judge:
    torch.manual_seed(0)
    return Judge(JudgeConfig((8, 8, 8), (1, 1, 1))).initialise().eval()
