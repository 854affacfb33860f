"""A process goes to disk and back, and is diffusers' there."""

from pathlib import Path

import pytest

from unclip.diffusion.schedules import DiffusionConfig
from unclip.storage.folder import ModelFolder
from unclip.storage.scheduler import load_scheduler, save_scheduler, scheduler_json


def test_the_scheduler_goes_there_and_back(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    config = DiffusionConfig(prediction_type="sample", clip_sample_range=5.0)
    save_scheduler(folder, "prior_scheduler", config)
    assert load_scheduler(folder, "prior_scheduler") == config
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UnCLIPScheduler.from_pretrained(tmp_path / "prior_scheduler")
    assert theirs.config.prediction_type == "sample"
    files = {"scheduler_config.json": scheduler_json(config) | {"beta_schedules": "linear"}}
    folder.save("prior_scheduler", ("diffusers", "UnCLIPScheduler"), files)
    with pytest.raises(ValueError, match="unknown key 'beta_schedules'; did you mean"):
        load_scheduler(folder, "prior_scheduler")
