"""The bundled folder in diffusers, and by its sampler here: as good as by our defaults."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unclip import Pipeline
from unclip.data.world.scene import Scene, WorldConfig
from unclip.evaluation.judge.network import judge_images, load_judge
from unclip.evaluation.metrics.composition import held_out, score
from unclip.storage.folder import bundled

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

SCENES, STEPS = 6, 12
CONFIG = WorldConfig(
    max_objects=1, sizes=("large",), textures=("plain",), styles=("plain",),
    backgrounds=("flat", "sea", "room"), size=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    world = held_out(CONFIG)
    return [world.scene(i) for i in range(SCENES)]


def check(images: Tensor, scenes: list[Scene]) -> None:
    """The judge finds most objects, in their colours, on their backgrounds; noise holds nothing."""
    found = score(judge_images(load_judge(), images), scenes)
    assert found.object.right >= 4, found
    assert found.colour.right >= 4, found
    assert found.background.accuracy >= 0.75, found


def test_diffusers_makes_good_images_of_it(
    scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the repair of docs/published_models.md, with the guidance that suits the model."""
    import diffusers
    from diffusers.pipelines.deprecated import unclip

    monkeypatch.setattr(diffusers.pipelines, "unclip", unclip, raising=False)
    pipe: Any = unclip.UnCLIPPipeline.from_pretrained(bundled("model"))
    pipe.to(torch.float32).set_progress_bar_config(disable=True)
    made = pipe(
        [scene.caption for scene in scenes],
        generator=torch.Generator().manual_seed(0),
        prior_guidance_scale=1.0,
        decoder_guidance_scale=3.0,
        prior_num_inference_steps=STEPS,
        decoder_num_inference_steps=STEPS,
        super_res_num_inference_steps=2,  # it divides by the steps less one
        output_type="np",
    ).images  # (N, H, W, 3) in [0, 1]
    images = torch.from_numpy(made).permute(0, 3, 1, 2) * 2 - 1
    assert images.shape == (SCENES, 3, 128, 128)
    check(images, scenes)


def test_ddpm_makes_good_images_of_it(scenes: list[Scene]) -> None:
    pipe = Pipeline.from_pretrained(dtype="fp32", device="cpu")
    captions = [scene.caption for scene in scenes]
    made = pipe(
        captions, sampler="ddpm", size=32, output_type="tensor", batch_size=SCENES,
        decoder_num_inference_steps=STEPS,
    )  # fmt: skip
    check(made.images, scenes)


def test_its_variance_is_a_constant() -> None:
    """A decoder that predicts x_0 learns none: v = 0 everywhere, so that any DDPM adds β̃."""
    weights = Pipeline.from_pretrained(dtype="fp32", device="cpu").decoder.network.state_dict()
    assert not weights["decoder.conv_out.weight"][3:].any()
    assert (weights["decoder.conv_out.bias"][3:] == -1).all()
