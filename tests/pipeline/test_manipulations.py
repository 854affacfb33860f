"""Manipulations through latents: end points, exactness, and everything that is refused.

The random decoder predicts v: nobody trained it, and for v the steps of DDIM can be inverted still.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.tiny import scenes
from unclip import Pipeline
from unclip.data.transforms import to_pil
from unclip.pipeline.latents import Latents

SMALL: dict[str, Any] = {"size": 16, "output_type": "pt"}
STEPS = 30


@pytest.fixture(scope="module")
def pipe(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    import shutil

    copy = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "v"))
    file = copy / "decoder_scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v_prediction"}))
    return Pipeline.from_pretrained(copy, dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [to_pil(image) for image in scenes(2)["images"]]


@pytest.fixture(scope="module")
def latents(pipe: Pipeline, pictures: list[Image.Image]) -> Latents:
    return pipe.invert(pictures, STEPS)


# ---- latents --------------------------------------------------------------------------------


def test_eta_0_from_inverted_latents_reconstructs(
    pipe: Pipeline, pictures: list[Image.Image], latents: Latents
) -> None:
    assert min(pipe.psnr(pictures, latents)) > 35
    back = pipe.reconstruct(latents, **SMALL).images
    assert torch.equal(back, pipe.vary(latents, eta=0.0, seed=5, **SMALL).images)
    far = [
        (pipe.vary(latents, eta=eta, **SMALL).images - back).abs().mean() for eta in (0.1, 0.5, 1.0)
    ]
    assert 0 < far[0] < far[1] < far[2]


def test_latents_are_the_same_from_a_file(pipe: Pipeline, latents: Latents, tmp_path: Path) -> None:
    latents.save(tmp_path / "l.safetensors")
    again = Latents.load(tmp_path / "l.safetensors")
    assert torch.equal(again.z_i, latents.z_i)
    assert torch.equal(again.x_T, latents.x_T)
    assert (again.steps, again.model) == (STEPS, pipe.fingerprint)


def test_latents_of_another_model(pipe: Pipeline, latents: Latents) -> None:
    for wrong, says in (
        (replace(latents, model="0123456789abcdef"), "made by another model"),
        (replace(latents, z_i=latents.z_i[:, :-1]), "width 63 .* this model 64"),
        (replace(latents, x_T=latents.x_T[..., :8, :8]), "8 pixels"),
    ):
        with pytest.raises(ValueError, match=says):
            pipe.vary(wrong)


def test_damaged_latents(latents: Latents, tmp_path: Path) -> None:
    file = tmp_path / "l.safetensors"
    for path, says in ((file, "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(ValueError, match=says):
            Latents.load(path)
    save_file({"z_i": latents.z_i}, file)
    with pytest.raises(ValueError, match="holds no latents"):
        Latents.load(file)
    replace(latents, x_T=latents.x_T / 0).save(file)
    with pytest.raises(ValueError, match="NaN or infinite"):
        Latents.load(file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Latents.load(file)
